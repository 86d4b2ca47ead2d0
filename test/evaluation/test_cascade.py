"""The cascade: an LLM by itself, or the one of a trained model, reads what a recogniser wrote."""

import json

import pytest
import yaml

from blspkd.bin import decode, score
from blspkd.config import ModelConfig, PromptConfig
from blspkd.errors import ConfigError, DataError
from blspkd.evaluation.cascade import describe_experiment, read_transcripts
from blspkd.evaluation.scoring import score_experiment
from blspkd.evaluation_config import DecodeConfig, TaskConfig
from blspkd.files import read_rows
from blspkd.kaldi.data_dir import read_table, write_table
from blspkd.models.listener import GenerationOptions, Listener
from blspkd.models.speech_llm import SpeechLlm


@pytest.fixture
def recipe(tmp_path, data_dir):
    """decode.yaml, and transcripts of the twelve utterances: the first one empty, the second one wrong."""
    texts = read_table(f"{data_dir}/text")
    first, second = sorted(texts)[:2]
    write_table(tmp_path / "asr_train" / "text", texts | {first: "", second: "nine bags"})
    (tmp_path / "decode.yaml").write_text(yaml.safe_dump({"tasks": {
        "repeat": {"instruction": "Repeat the text.", "metrics": ["wer"]}}, "num_bootstrap": 20, "max_new_tokens": 6,
        "batch_size": 5, "part_size": 5, "device": "cpu"}))
    return tmp_path


def options(recipe, systems="[text, cascade]") -> list[str]:
    return ["--config", str(recipe / "decode.yaml"), "--exp_dir", str(recipe / "exp"), "--systems", systems,
            "--transcripts", str(recipe / "asr_{set}")]


def rows_of(recipe, ending: str) -> dict[str, dict]:
    return {row["utt_id"]: row for row in read_rows(recipe / "exp" / f"decode_repeat_train{ending}" / "hyp.jsonl")}


def decode_alone(recipe, tiny_llm, data_dir, *more: str, systems: str = "[text, cascade]") -> None:
    decode.main([*options(recipe, systems), "--llm", tiny_llm, "--prompt_of", data_dir, "--data_dir", data_dir, *more])


def test_an_llm_by_itself_is_decoded_and_scored(recipe, tiny_llm, data_dir):
    decode_alone(recipe, tiny_llm, data_dir, "--system", "cascade-weak")
    score.main([*options(recipe), "--test_sets", "train"])
    text, cascade = rows_of(recipe, ".text"), rows_of(recipe, ".cascade")
    first, second, *others = sorted(text)
    assert [cascade[key]["recognised"] for key in (first, second)] == ["", "nine bags"]
    assert cascade[first]["n_tokens"] == 0 and cascade[first]["transcript"] == text[first]["transcript"]
    for utt_id in others:
        assert cascade[utt_id]["hypothesis"] == text[utt_id]["hypothesis"]
    rows = {(row["system"], row["task"], row["metric"]): row
            for row in json.loads((recipe / "exp/results.json").read_text())}
    words = [len(row["transcript"].split()) for row in text.values()]
    wrong = words[0] + max(words[1], 2)  # a deletion of everything; every word of the second is another one, or missing
    assert rows["cascade-weak", "asr", "wer"]["value"] == pytest.approx(100 * wrong / sum(words), abs=100 / sum(words))
    assert rows["cascade-weak", "repeat", "wer"]["n"] == rows["text", "repeat", "wer"]["n"] == 12
    assert {row["seed"] for row in rows.values()} == {None}
    assert {system for system, _, _ in rows} == {"cascade-weak", "text"}


def test_an_llm_by_itself_answers_as_the_one_of_a_trained_model(recipe, tiny_llm, tiny_encoder, data_dir):
    prompt = PromptConfig(instruction="Continue:")
    model = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, pad_to_30s=False,
                        adapter_options={"num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2, "ffn_dim": 32})
    SpeechLlm.from_config(model, prompt).save_pretrained(recipe / "model")
    whole, alone = Listener.from_pretrained(recipe / "model"), Listener.from_llm(tiny_llm, prompt)
    said = (["the farmer sold six bags", "", "  "], ["Repeat.", "Repeat.", "Repeat."], GenerationOptions(6))
    assert whole.generate_from_text(*said) == alone.generate_from_text(*said)


def test_a_trained_model_reads_transcripts_too(recipe, tiny_llm, tiny_encoder, data_dir):
    model = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, pad_to_30s=False,
                        adapter_options={"num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2, "ffn_dim": 32})
    SpeechLlm.from_config(model, PromptConfig()).save_pretrained(recipe / "exp" / "model")
    (recipe / "exp" / "config.yaml").write_text("{system: blspkd, training: {seed: 4}}")
    words = options(recipe, "[speech, cascade]")
    decode.main([*words, "--model_dir", str(recipe / "exp/model"), "--data_dir", data_dir])
    score.main([*words, "--test_sets", "train"])
    rows = json.loads((recipe / "exp/results.json").read_text())
    assert {(row["system"], row["seed"]) for row in rows} == {("cascade", 4), ("blspkd", 4)}
    with pytest.raises(SystemExit):
        decode_alone(recipe, tiny_llm, data_dir)  # this folder is the trained model's


def test_the_configuration_chooses_the_weights_type(recipe, tiny_llm, data_dir):
    with open(recipe / "decode.yaml", "a") as file:
        file.write("dtype: bfloat16\n")
    decode_alone(recipe, tiny_llm, data_dir)
    assert yaml.safe_load((recipe / "exp/config.yaml").read_text())["model"]["dtype"] == "bfloat16"
    score.main([*options(recipe), "--test_sets", "train"])  # reads the same file


def test_other_transcripts_are_noticed(recipe, tiny_llm, data_dir, monkeypatch):
    decode_alone(recipe, tiny_llm, data_dir)
    monkeypatch.setattr(Listener, "from_llm", None)
    decode_alone(recipe, tiny_llm, data_dir)  # everything is there: no model is loaded
    monkeypatch.undo()
    texts = read_table(f"{data_dir}/text")
    write_table(recipe / "asr_train" / "text", dict.fromkeys(texts, "six cats"))
    before = (recipe / "exp/decode_repeat_train.text/hyp.jsonl").stat().st_mtime_ns
    decode_alone(recipe, tiny_llm, data_dir)
    assert {row["recognised"] for row in rows_of(recipe, ".cascade").values()} == {"six cats"}
    assert (recipe / "exp/decode_repeat_train.text/hyp.jsonl").stat().st_mtime_ns == before


@pytest.mark.parametrize("systems, more, message", [
    ("[speech]", [], "cannot listen"), ("[cascade]", ["--transcripts", ""], "transcripts: the system cascade"),
    ("[cascade]", ["--transcripts", "nosuch_{set}"], "nosuch_train/text: missing"),
    ("[cascade]", ["--system", "blspkd"], "system: 'blspkd'"), ("[text]", ["--dtype", "int8"], "dtype: 'int8'"),
    ("[text]", ["--prompt_of", "nosuch"], "nosuch/continuation.info.json")])
def test_mistakes_end_in_one_message(recipe, tiny_llm, data_dir, capsys, systems, more, message):
    with pytest.raises(SystemExit) as ended:
        decode_alone(recipe, tiny_llm, data_dir, *more, systems=systems)
    assert ended.value.code == 1 and message in capsys.readouterr().err


def test_a_recognisers_file_is_read_leniently(tmp_path):
    (tmp_path / "text").write_text("a one two\nb\nc \nd\t x\u2028y \n", encoding="utf-8")
    assert read_transcripts(tmp_path, "abcd") == {"a": "one two", "b": "", "c": "", "d": "x\u2028y"}
    with pytest.raises(DataError, match="1 utterances have no line, the first is e"):
        read_transcripts(tmp_path, "ae")


def test_the_experiments_file(tmp_path):
    describe_experiment(tmp_path, "cascade-weak", ModelConfig(llm="x"))
    before = (tmp_path / "config.yaml").stat().st_mtime_ns
    describe_experiment(tmp_path, "cascade-weak", ModelConfig(llm="x"))
    assert (tmp_path / "config.yaml").stat().st_mtime_ns == before
    describe_experiment(tmp_path, "cascade", ModelConfig(llm="x"))
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["system"] == "cascade"
    (tmp_path / "config.yaml").write_text("{system: blspkd, training: {seed: 0}, model: {adapter: conv}}")
    with pytest.raises(ConfigError, match="trained model"):
        describe_experiment(tmp_path, "cascade", ModelConfig(llm="x"))


def test_a_set_without_transcripts_has_no_error_rate_of_its_own(recipe, tiny_llm, data_dir, tmp_path):
    """References of the task are enough: `text.<task>` instead of `text`."""
    decode_alone(recipe, tiny_llm, data_dir, systems="[cascade]")
    path = recipe / "exp/decode_repeat_train.cascade/hyp.jsonl"
    rows = [{**json.loads(line), "transcript": ""} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DecodeConfig(tasks={"repeat": TaskConfig(metrics=["wer"])}, systems=["cascade"], transcripts="x",
                          num_bootstrap=20)
    assert not [row for row in score_experiment(recipe / "exp", config, ["train"]) if row.task == "asr"]
