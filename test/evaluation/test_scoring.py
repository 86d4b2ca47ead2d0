"""From decode directories to score.json, results.json and the examples."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml

from blspkd.config_file import to_dict
from blspkd.errors import ConfigError, DataError
from blspkd.evaluation.decode_dir import DecodeDir
from blspkd.evaluation.results import Row, is_by_count, read_results, write_results
from blspkd.evaluation.scorers import HEALTH, load_decode_config
from blspkd.evaluation.scoring import score_experiment
from blspkd.evaluation_config import DecodeConfig, TaskConfig

KEYS = ["system", "set", "task", "metric", "value", "ci95", "n", "seed", "signature"]
GOOD_ROW = {"system": "a", "set": "b", "task": "c", "metric": "d", "value": 1, "ci95": [0, 2], "n": 1, "seed": 0,
            "signature": ""}
SAID = ["the cat sat on the mat", "ten dogs ran", "a bird sang all day", "we saw two red cars"]


def write_decoded(exp_dir, task, set_name, system, answers):
    directory = DecodeDir(exp_dir, task, set_name, system, {})
    directory.start()
    directory.write_part(0, [{
        "utt_id": f"utt{number}", "instruction": f"Please {task}.", "transcript": said, "reference": said,
        "hypothesis": answer, "n_tokens": len(said) + number % 2, "n_tokens_reference": len(said),
        "source_utt_id": f"utt{number}", "finished": number > 0,
    } for number, (said, answer) in enumerate(zip(SAID, answers, strict=False))])
    directory.finish(1)


@pytest.fixture
def config():
    return DecodeConfig(tasks={"translate": TaskConfig(instruction="t", metrics=["bleu", "chrf"]),
                               "repeat": TaskConfig(instruction="r", metrics=["wer"]),
                               "qa": TaskConfig(instruction="q", metrics=["exact_match"])}, num_bootstrap=100)


def test_several_tasks_have_a_mean(config, exp_dir):
    for set_name in ("heard", "unheard"):
        for system in ("text", "speech", "chance"):
            write_decoded(exp_dir, "other", set_name, system, [*SAID[:1], "x", "y", "z"])
    tasks = {**config.tasks, "other": TaskConfig(instruction="o", metrics=["exact_match"])}
    config = DecodeConfig(tasks=tasks, means={"instructions": ["qa", "other"]}, num_bootstrap=100)
    rows = {(row.system, row.task): row for row in score_experiment(exp_dir, config, ["heard"])
            if row.metric == "exact_match"}
    values = {system: rows[system, "instructions"].value for system in ("text", "blspkd+plora", "chance")}
    assert values == {"text": (100 + 25) / 2, "blspkd+plora": (75 + 25) / 2, "chance": (0 + 25) / 2}
    row = rows["blspkd+plora", "instructions"]
    assert row.n == 4 and row.ci95[0] < row.value < row.ci95[1] and row.signature.startswith("mean of qa, other|")


def test_agreement_compares_with_the_typed_transcript_s_answer(exp_dir):
    metrics = ["agreement_exact", "agreement_chrf", "agreement_first_word"]
    config = DecodeConfig(tasks={"reply": TaskConfig(instruction="r", metrics=metrics, sets=["heard"]),
                                 "qa": TaskConfig(instruction="q", metrics=["exact_match"])}, num_bootstrap=100)
    write_decoded(exp_dir, "reply", "heard", "text", ["Yes, it did.", "No dogs", "Why not?", " "])
    write_decoded(exp_dir, "reply", "heard", "speech", ["Yes, it did. ", "No cats", "why", "a"])
    write_decoded(exp_dir, "reply", "heard", "chance", ["No", "yes", "a", "Yes"])
    rows = rows_by_key(score_experiment(exp_dir, config, ["heard", "unheard"]))
    values = [rows["blspkd+plora", "heard", "reply", metric].value for metric in metrics]
    assert values[0] == pytest.approx(100 / 3, abs=1e-3) and values[2] == pytest.approx(100) and 33 < values[1] < 100
    # chance: the answer to another typed transcript, here the same one; not what a system made of hearing it
    assert rows["chance", "heard", "reply", "agreement_exact"].value == 100
    assert not [key for key in rows if key[0] == "text" and key[2] == "reply" and key[3] in metrics]
    assert ("text", "unheard", "qa", "exact_match") in rows
    assert not [key for key in rows if key[1:3] == ("unheard", "reply")]
    shutil.rmtree(exp_dir / "decode_reply_heard.text")
    config.systems = ["speech"]
    with pytest.raises(DataError, match="measures agreement with the system text, which has to be decoded first"):
        score_experiment(exp_dir, config, ["heard"])


def test_answers_to_typed_transcripts_may_lie_elsewhere_and_have_to_be_complete(exp_dir, tmp_path):
    metrics = ["agreement_exact", "agreement_chrf"]
    config = DecodeConfig(tasks={name: TaskConfig(instruction="r", metrics=metrics, sets=["heard"])
                                 for name in ("reply", "continue")},
                          means={"all": ["reply", "continue"]}, num_bootstrap=100, systems=["text", "speech"])
    for task in config.tasks:
        write_decoded(exp_dir, task, "heard", "text", ["", " ", "", ""])
        write_decoded(exp_dir, task, "heard", "speech", ["a", "b", "c", "d"])
        write_decoded(tmp_path / "typed", task, "heard", "text", ["a", "b", "x", "y"])
    assert not [row for row in score_experiment(exp_dir, config, ["heard"]) if row.metric in metrics]
    for task, answers in (("reply", ["a", "b", "x", ""]), ("continue", [" ", "b", "x", "d"])):
        write_decoded(tmp_path / "gaps", task, "heard", "text", answers)
    rows = rows_by_key(score_experiment(exp_dir, replace(config, typed=str(tmp_path / "gaps")), ["heard"]))
    mean = rows["blspkd+plora", "heard", "all", "agreement_exact"]  # of the second and third utterance alone
    assert (mean.value, mean.n) == (50, 2)
    config.typed = str(tmp_path / "typed")
    rows = rows_by_key(score_experiment(exp_dir, config, ["heard"]))
    assert rows["blspkd+plora", "heard", "all", "agreement_exact"].value == 50
    assert not [key for key in rows if key[0] == "text" and key[3] in metrics]
    shutil.rmtree(tmp_path / "typed/decode_reply_heard.text")
    write_decoded(tmp_path / "typed", "reply", "heard", "text", ["a", "b", "x"])
    with pytest.raises(DataError, match=r"decode_reply_heard\.text: no answer for utt3, .* decode the system text"):
        score_experiment(exp_dir, config, ["heard"])


def test_a_right_answer_may_stand_in_a_sentence(exp_dir):
    config = DecodeConfig(tasks={"ask": TaskConfig(instruction="a", metrics=["contains"])}, num_bootstrap=100,
                          systems=["speech"])
    write_decoded(exp_dir, "ask", "heard", "speech",
                  ["Well: the cat sat on the mat.", "Ten dogs ran!", "a bird sang all daylong", "no"])
    [value] = [row.value for row in score_experiment(exp_dir, config, ["heard"]) if row.metric == "contains"]
    assert value == 50


@pytest.mark.parametrize("means", [{"all": ["repeat"]}, {"all": ["nosuch"]}, {"all": []}, {"qa": ["qa"]}])
def test_a_mean_of_what_has_no_exact_match_is_refused(config, means, tmp_path):
    (tmp_path / "decode.yaml").write_text(yaml.safe_dump(to_dict(config) | {"means": means}))
    with pytest.raises(ConfigError, match="decode.yaml: means: '?(all|qa)"):
        load_decode_config(tmp_path / "decode.yaml")


@pytest.mark.parametrize("change, message", [
    ({"means": {"all": ["qa", "repeat"]}}, "means: all: qa, repeat have no metric in common .*: exact_match"),
    ({"tasks": {"qa": {"metrics": ["exactmatch"]}}}, "there is no 'exactmatch'; did you mean 'exact_match'"),
])
def test_a_metric_that_cannot_be_is_named_before_anything_is_loaded(config, tmp_path, change, message):
    (tmp_path / "decode.yaml").write_text(yaml.safe_dump(to_dict(config) | change))
    with pytest.raises(ConfigError, match=f"decode.yaml: .*{message}"):
        load_decode_config(tmp_path / "decode.yaml")


def test_checking_metrics_loads_no_package_that_counts_words(config, tmp_path):
    (tmp_path / "decode.yaml").write_text(yaml.safe_dump(to_dict(config)))
    code = ("import sys, blspkd.evaluation.scorers as scorers; scorers.load_decode_config(sys.argv[1]); "
            "print(*{'sacrebleu', 'jiwer', 'torch'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "decode.yaml"], capture_output=True, text=True,
                          check=True)
    assert not done.stdout.strip()


@pytest.fixture
def exp_dir(tmp_path):
    path = tmp_path / "exp"
    path.mkdir()
    (path / "config.yaml").write_text(yaml.safe_dump({"system": "blspkd+plora", "training": {"seed": 7},
                                                      "model": {"adapter": "cformer"}}))
    for set_name in ("heard", "unheard"):
        for task in ("translate", "repeat", "qa"):
            write_decoded(path, task, set_name, "text", SAID)
            write_decoded(path, task, set_name, "speech", [SAID[0], "ten dog ran", *SAID[2:]])
            write_decoded(path, task, set_name, "chance", SAID[1:] + SAID[:1])
    return path


def rows_by_key(rows):
    return {(row.system, row.set, row.task, row.metric): row for row in rows}


def test_results_have_the_schema_that_was_agreed(exp_dir, config):
    score_experiment(exp_dir, config, ["heard", "unheard"])
    rows = json.loads((exp_dir / "results.json").read_text())
    for row in rows:
        assert list(row) == KEYS
        assert row["system"] in ("text", "chance", "blspkd+plora")
        assert row["set"] in ("heard", "unheard") and row["task"] in ("translate", "repeat", "qa", "alignment")
        assert len(row["ci95"]) == 2 and row["ci95"][0] <= row["ci95"][1]
        assert (row["n"], row["seed"]) == (4, 7)
        assert row["signature"]
    assert len({tuple(row[key] for key in KEYS[:4]) for row in rows}) == len(rows)


def test_values_are_those_of_the_metrics(exp_dir, config):
    rows = rows_by_key(score_experiment(exp_dir, config, ["heard", "unheard"]))
    assert rows["text", "heard", "translate", "bleu"].value == pytest.approx(100)
    assert "version:" in rows["text", "heard", "translate", "bleu"].signature
    assert rows["blspkd+plora", "unheard", "repeat", "wer"].value == pytest.approx(100 / 19, abs=1e-4)
    assert rows["blspkd+plora", "unheard", "qa", "exact_match"].value == pytest.approx(75)
    assert rows["chance", "heard", "qa", "exact_match"].value == 0


def test_questions_are_also_scored_by_their_first_word(exp_dir, config):
    whole = score_experiment(exp_dir, config, ["heard"])
    config.tasks["qa"].by_first_word = config.tasks["repeat"].by_first_word = True
    path = exp_dir / "decode_qa_heard" / "hyp.jsonl"
    for suffix in ("", ".text", ".chance"):
        path = exp_dir / f"decode_qa_heard{suffix}" / "hyp.jsonl"
        asked = ["Who was it?", "\"Who's\" there?", "WHO sat?", "When was that?"]
        rows = [json.loads(line) | {"instruction": question}
                for line, question in zip(path.read_text().splitlines(), asked, strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = score_experiment(exp_dir, config, ["heard"])
    assert [row for row in rows if ":" not in row.task] == whole
    types = {(row.task, row.metric): (row.n, row.value)
             for row in rows if ":" in row.task and row.system == "blspkd+plora"}
    assert types == {("qa:who", "exact_match"): (2, 100), ("qa:whos", "exact_match"): (1, 0),
                     ("qa:when", "exact_match"): (1, 100),
                     ("repeat:please", "wer"): (4, pytest.approx(100 / 19, abs=1e-4))}
    config.tasks["qa"].by_first_word = config.tasks["repeat"].by_first_word = False
    assert score_experiment(exp_dir, config, ["heard"]) == whole  # rows that are no longer asked for leave


def test_scores_are_also_split_by_whether_the_number_of_tokens_is_right(exp_dir, config):
    """The second and fourth utterance have a token too many; the two parts of a mean make the whole."""
    whole = score_experiment(exp_dir, config, ["heard"])
    config.by_count = config.tasks["qa"].by_first_word = True
    rows = score_experiment(exp_dir, config, ["heard"])
    assert [row for row in rows if ":" not in row.task] == whole
    split = {(row.task, row.metric): row for row in rows if is_by_count(row.task)}
    assert {row.system for row in split.values()} == {"blspkd+plora"}  # what is typed in has no other number
    assert split.keys() == {(f"{task}:tokens={part}", metric) for task, own in config.tasks.items()
                            for metric in own.metrics for part in ("right", "wrong")}
    right, wrong = (split[f"qa:tokens={part}", "exact_match"] for part in ("right", "wrong"))
    total, = [row.value for row in whole if row.task == "qa" and row.metric == "exact_match"
              and row.system == "blspkd+plora"]
    assert right.n == wrong.n == 2 and (right.value * 2 + wrong.value * 2) / 4 == total
    assert {row.task for row in rows if ":" in row.task and not is_by_count(row.task)} == {"qa:please"}
    (exp_dir / "config.yaml").write_text("{system: blsp, training: {seed: 0}, model: {adapter: conv}}")
    assert not [row for row in score_experiment(exp_dir, config, ["heard"]) if is_by_count(row.task)
                and row.system == "blsp"]


def test_count_accuracy_is_of_the_speech_system_alone(exp_dir, config):
    rows = [row for row in score_experiment(exp_dir, config, ["heard", "unheard"]) if row.task == "alignment"]
    assert [(row.system, row.set, row.metric, row.value) for row in rows] == [
        ("blspkd+plora", "heard", "count_accuracy", 50), ("blspkd+plora", "unheard", "count_accuracy", 50)]


def test_an_adapter_with_a_rate_of_its_own_has_no_count_accuracy(exp_dir, config):
    (exp_dir / "config.yaml").write_text("{system: blsp, training: {seed: 0}, model: {adapter: conv}}")
    assert "alignment" not in {row.task for row in score_experiment(exp_dir, config, ["heard"])}


def test_scoring_twice_writes_the_same_bytes(exp_dir, config):
    score_experiment(exp_dir, config, ["heard", "unheard"])
    files = [exp_dir / name for name in ("results.json", "examples.json", "decode_qa_heard/score.json")]
    before = [file.read_bytes() for file in files]
    score_experiment(exp_dir, config, ["heard", "unheard"])
    assert [file.read_bytes() for file in files] == before


def test_rows_of_other_systems_sets_and_measurements_stay(exp_dir, config):
    kept = [Row("cascade", "heard", "qa", "exact_match", 90.0, [80.0, 95.0], 4, 0, "x"),
            Row("blspkd+plora", "heard", "alignment", "boundary_median_ms", 40.0, [30.0, 50.0], 4, 7, ""),
            Row("blspkd+plora", "other", "qa", "exact_match", 1.0, [0.0, 2.0], 4, 7, "")]
    stale = [Row("blspkd+plora", "heard", "qa", "exact_match", 1.0, [0.0, 2.0], 4, 7, "old"),
             Row("text", "heard", "translate", "wer", 1.0, [0.0, 2.0], 4, 7, "no longer asked for")]
    write_results(exp_dir / "results.json", kept + stale)
    rows = score_experiment(exp_dir, config, ["heard"])
    assert rows == read_results(exp_dir / "results.json")
    assert rows[-3:] == kept
    assert not set(map(repr, stale)) & set(map(repr, rows))


def test_score_json_holds_the_scores_and_counts_cut_answers(exp_dir, config, caplog):
    score_experiment(exp_dir, config, ["heard"])
    score = json.loads((exp_dir / "decode_repeat_heard" / "score.json").read_text())
    assert (score["task"], score["n"], score["unfinished"]) == ("repeat", 4, 1)
    assert [row["metric"] for row in score["scores"]] == ["wer", "wer_sub", "wer_del", "wer_ins", "wer_sent", *HEALTH]
    assert all({"value", "ci95", "n", "signature"} <= set(row) for row in score["scores"])
    assert "1 of 4 answers were cut off" in caplog.text


def test_examples_take_turns_over_tasks_and_sets_and_show_every_system(exp_dir, config):
    score_experiment(exp_dir, config, ["heard", "unheard"])
    examples = json.loads((exp_dir / "examples.json").read_text())
    assert [(example["task"], example["set"]) for example in examples] == [
        ("translate", "unheard"), ("repeat", "heard"), ("qa", "unheard")]
    for example in examples:
        assert list(example["answers"]) == ["text", "chance", "blspkd+plora"]
        assert example["answers"]["text"] == example["transcript"] == example["reference"]


def test_an_unfinished_or_missing_decode_directory_is_an_error_with_the_remedy(exp_dir, config):
    (exp_dir / "decode_qa_heard" / "decode.json").unlink()
    with pytest.raises(DataError, match="decode_qa_heard: is not finished; decode first"):
        score_experiment(exp_dir, config, ["heard"])
    with pytest.raises(DataError, match="nosuch.*is not there"):
        score_experiment(exp_dir, config, ["nosuch"])
    assert not (exp_dir / "results.json").exists()


def test_an_empty_reference_names_directory_and_utterance(exp_dir, config):
    path = exp_dir / "decode_qa_heard" / "hyp.jsonl"
    path.write_text(path.read_text().replace('"reference": "ten dogs ran"', '"reference": "?"'))
    with pytest.raises(DataError, match="decode_qa_heard: utterance utt1"):
        score_experiment(exp_dir, config, ["heard"])


@pytest.mark.parametrize("text", ["", "system: x", "{", "{system: x, training: {seed: many}}"])
def test_a_configuration_without_system_or_seed_is_an_error(exp_dir, config, text):
    (exp_dir / "config.yaml").write_text(text)
    with pytest.raises(DataError, match=r"config\.yaml"):
        score_experiment(exp_dir, config, ["heard"])


def test_no_training_and_no_sets_are_errors(exp_dir, config):
    with pytest.raises(ConfigError, match="test_sets"):
        score_experiment(exp_dir, config, [])
    (exp_dir / "config.yaml").unlink()
    with pytest.raises(DataError, match="stage 3"):
        score_experiment(exp_dir, config, ["heard"])


@pytest.mark.parametrize("text, message", [
    ("{}", "list of rows"),
    ("[{]", "not JSON"),
    ('[{"system": "text"}]', "row 1: expected exactly the keys"),
    (json.dumps([GOOD_ROW | {"value": "e"}]), "row 1: expected text, numbers"),
    (json.dumps([GOOD_ROW, GOOD_ROW | {"ci95": 3}]), "row 2: expected text, numbers"),
    (json.dumps([GOOD_ROW | {"system": None}]), "row 1: expected text, numbers"),
])
def test_a_damaged_results_file_is_an_error(tmp_path, text, message):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_results(tmp_path / "results.json")


@pytest.mark.parametrize("value, kept", [(3.1415926e-5, 3.14159e-05), (0, 0), (98.7654321, 98.7654), (-2e-9, -2e-9)])
def test_six_digits_of_every_value_are_kept_however_small_it_is(tmp_path, value, kept):
    row = Row(**GOOD_ROW | {"value": value, "ci95": [value, value]})
    write_results(tmp_path / "results.json", [row])
    found, = read_results(tmp_path / "results.json")
    assert (found.value, found.ci95) == (kept, [kept, kept])
