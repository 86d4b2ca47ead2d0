"""How many answers change where a model is decoded otherwise."""

import json
from dataclasses import replace

import pytest

from blspkd.errors import DataError
from blspkd.evaluation.changed_answers import CHANGED, changed, update_changed_results
from blspkd.evaluation.comparison import Comparison, measure
from blspkd.evaluation.comparison_plan import Run, plan
from blspkd.evaluation.results import Row, read_results, write_results
from blspkd.evaluation_config import CompareConfig, DecodeConfig, TaskConfig
from blspkd.reporting import comparison_page

TASKS = {"qa": TaskConfig(metrics=["exact_match"], by_first_word=True), "repeat": TaskConfig("Repeat.", ["wer"])}
CONFIG = DecodeConfig(tasks=TASKS, num_bootstrap=100)
WRONG = Run("wrong-seed0", "wrong", "wrong.yaml", 0, of="tags-seed0", beside="right-seed0")


def rows_of(answers):
    """An answer an utterance; every second question is for a number."""
    return [{"utt_id": f"u{number}", "hypothesis": answer, "instruction": "How many?" if number % 2 else "Who?",
             "reference": "six", "transcript": "x", "n_tokens": 1, "n_tokens_reference": 1}
            for number, answer in enumerate(answers)]


def write(folder, run, task, answers, set_name="test", finished=True):
    decoded = folder / run / f"decode_{task}_{set_name}"
    decoded.mkdir(parents=True)
    (decoded / "hyp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of(answers)))
    if finished:
        (decoded / "decode.json").write_text("{}")


def test_white_space_is_no_change_and_case_is_one():
    right = rows_of(["six", "six bags ", "Six", "six.", ""])
    assert changed(right, rows_of(["six", "six  bags", "six", "six", " "])) == [False, False, True, True, False]
    with pytest.raises(DataError, match="to other utterances"):
        changed(right, rows_of(["six"]))


def test_shares_are_counted_for_tasks_and_types_of_questions(tmp_path):
    write(tmp_path, "right-seed0", "qa", ["ann", "six", "bob", "two", "cem", "ten", "eva", "one"])
    write(tmp_path, "wrong-seed0", "qa", ["ann", "6", "bob", "2", "dan", "10", "eva", "one"])
    write(tmp_path, "right-seed0", "repeat", ["a"] * 8, finished=False)  # not yet: nothing is said of it
    write(tmp_path, "wrong-seed0", "repeat", ["b"] * 8)
    old = Row("wrong", "test", "repeat", CHANGED, 1.0, [0.0, 2.0], 8, 0, "of an earlier table")
    other = Row("wrong", "test", "repeat", "wer", 1.0, [0.0, 2.0], 8, 0, "")
    write_results(tmp_path / "wrong-seed0" / "results.json", [old, other])
    found = {(row.task, row.metric): row for row in update_changed_results(tmp_path, WRONG, CONFIG, ["test"])}
    assert found.keys() == {("qa", CHANGED), ("qa:how", CHANGED), ("qa:who", CHANGED), ("repeat", "wer")}
    assert [(found[task, CHANGED].value, found[task, CHANGED].n) for task in ("qa", "qa:how", "qa:who")] == [
        (50.0, 8), (75.0, 4), (25.0, 4)]
    row = found["qa", CHANGED]
    assert row.ci95[0] < 50 < row.ci95[1] and row.signature.startswith("other answers than right-seed0|case:mixed")
    assert read_results(tmp_path / "wrong-seed0" / "results.json") == list(found.values())


def test_other_utterances_name_both_folders(tmp_path):
    write(tmp_path, "right-seed0", "qa", ["a"])
    write(tmp_path, "wrong-seed0", "qa", ["a", "b"])
    with pytest.raises(DataError, match=r"wrong-seed0/decode_qa_test, .*right-seed0/decode_qa_test: the answers"):
        update_changed_results(tmp_path, WRONG, CONFIG, ["test"])


@pytest.fixture
def conf_dir(tmp_path):
    conf = tmp_path / "conf"
    conf.mkdir()
    for name, text in {"blspkd": "training: {max_steps: 5}", "right": "of: blspkd\ninference: {num_beams: 2}",
                       "wrong": "of: right\ninference: {num_beams: 3}",
                       "whole": "of: blspkd\nmerge: {none: 0}"}.items():
        (conf / f"{name}.yaml").write_text(f"system: {name}\n{text}\n")
    return conf


SYSTEMS = CompareConfig(systems={"blspkd": 2, "right": 1, "wrong": 2, "whole": 1}, chance="")


def test_every_system_is_held_against_the_one_that_it_names(conf_dir):
    runs = {run.name: run for run in plan(SYSTEMS, "full", conf_dir)}
    assert {name: (run.of, run.beside) for name, run in runs.items() if run.of} == {
        "right-seed0": ("blspkd-seed0", "blspkd-seed0"), "wrong-seed0": ("blspkd-seed0", "right-seed0"),
        "wrong-seed1": ("blspkd-seed1", ""),  # `right` has no second seed
        "whole-seed0": ("blspkd-seed0", "blspkd-seed0")}
    assert runs["whole-seed0"].merge == "blspkd-seed0=1 none=0" and not runs["blspkd-seed0"].beside


def test_the_table_of_stage_5_has_them(conf_dir, tmp_path):
    exp = tmp_path / "exp"
    answers = {"blspkd": ["six"] * 8, "right": ["six"] * 8, "wrong": ["6"] * 6 + ["six"] * 2, "whole": ["six"] * 8}
    config = replace(SYSTEMS, systems=dict.fromkeys(SYSTEMS.systems, 1))
    runs = plan(config, "full", conf_dir)
    for run in runs:
        for task in TASKS:
            write(exp, run.name, task, answers[run.system])
        rows = [Row(run.system, "test", "qa", "exact_match", 50.0, [40.0, 60.0], 8, 0, "s"),
                Row(run.system, "test", "repeat", "wer", 50.0, [40.0, 60.0], 8, 0, "s")]
        write_results(exp / run.name / "results.json", rows)
        if run.beside:
            update_changed_results(exp, run, CONFIG, ["test"])
    measured = measure(runs, "blspkd", exp, CONFIG, ["test"])
    found = {(one.system, one.task): one.values for one in measured if one.metric == CHANGED}
    assert found["wrong", "qa"] == found["wrong", "repeat"] == [75.0]
    assert found["whole", "qa"] == found["right", "repeat"] == [0.0] and ("blspkd", "qa") not in found
    page = comparison_page.markdown(Comparison("blspkd", "full", 5, measured))
    table = page.split("### Answers that change: test")[1].split("###")[0]
    assert ("| system | qa changed answers | qa:how changed answers (n=4) | qa:who changed answers (n=4) | "
            "repeat changed answers |") in table
    assert "| wrong | 75.0 | 75.0 | 75.0 | 75.0 |" in table and "| whole | 0.0 | 0.0 | 0.0 | 0.0 |" in table
    assert "not those of the system that the file names as `of`" in table and page.count("changed answers") == 4
