"""The three commands of stage 4, one after the other, as the recipe calls them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import yaml

from blspkd.bin import decode, results, score
from blspkd.config import ModelConfig, PromptConfig
from blspkd.kaldi.data_dir import write_table
from blspkd.models.listener import Generated, Listener
from blspkd.models.speech_llm import SpeechLlm

TEXTS = ["a cat", "two dogs ran", "red birds"]


class EchoListener:
    """Answers every instruction with what was said; knows an utterance by the number of its samples."""

    extractor = SimpleNamespace(sampling_rate=16000)
    prompt = SimpleNamespace(split=lambda transcript, instruction: SimpleNamespace(input=transcript.split()))

    def decide_numbers(self, count, recount_by, recount_weight):
        assert (count, recount_by, recount_weight) == ("model", "model", -1.0)

    def listen(self, waveforms, snap, recount, n_tokens):
        return [TEXTS[len(waveform) // 1000 - 1] for waveform in waveforms]

    def reply(self, speech, instructions, options):
        return self.generate_from_text(speech, instructions, options)

    def generate_from_text(self, transcripts, instructions, options):
        return [Generated(text, [1], len(text.split()), True) for text in transcripts]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe folder after stage 3, and the current one."""
    data = tmp_path / "data" / "test"
    data.mkdir(parents=True)
    ids = [f"s-{number}" for number in range(len(TEXTS))]
    for number, utt_id in enumerate(ids, 1):
        soundfile.write(data / f"{utt_id}.wav", np.zeros(1000 * number, dtype=np.float32), 16000)
    write_table(data / "wav.scp", {utt_id: f"data/test/{utt_id}.wav" for utt_id in ids})
    write_table(data / "text", dict(zip(ids, TEXTS, strict=True)))
    write_table(data / "utt2spk", dict.fromkeys(ids, "s"))
    write_table(data / "spk2utt", {"s": " ".join(ids)})
    model = tmp_path / "exp" / "run" / "model"
    model.mkdir(parents=True)
    for name in ("llm", "encoder"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (model / "config.yaml").write_text("model: {llm: ./llm, speech_encoder: ./encoder}\nprompt: {}\n")
    (model / "adapter.safetensors").write_bytes(b"weights")
    (tmp_path / "exp" / "run" / "config.yaml").write_text("{system: blspkd, training: {seed: 3}}")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "decode.yaml").write_text(yaml.safe_dump({"tasks": {
        "repeat": {"instruction": "Repeat.", "metrics": ["wer"]},
        "translate": {"instruction": "Translate.", "metrics": ["bleu"]}}, "num_bootstrap": 20}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Listener, "from_pretrained", lambda folder, device, dtype: EchoListener())
    return tmp_path


DECODE = ["--config", "conf/decode.yaml", "--model_dir", "exp/run/model", "--data_dir", "data/test",
          "--exp_dir", "exp/run"]
SCORE = ["--config", "conf/decode.yaml", "--exp_dir", "exp/run", "--test_sets", "test"]


def refused(main, words, capsys):
    """The one-line message with which the command ends."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code not in (0, None)
    return capsys.readouterr().err


def test_stage_four_from_model_to_page(recipe, capsys):
    (recipe / "times").write_text("3\ttrain\t60\t900\t2026-01-31\n")
    (recipe / "conf" / "preamble.md").write_text("# Results of a toy\n")
    decode.main([*DECODE, "--device", "cpu", "--batch_size", "2"])
    score.main(SCORE)
    results.main(["--exp_dir", "exp/run", "--stage_times", "times", "--output", "RESULTS.md",
                  "--preamble", "conf/preamble.md", "--command_line", f"./run.sh --expdir {recipe}/exp"])
    rows = {(row["system"], row["task"], row["metric"]): row
            for row in json.loads((recipe / "exp/run/results.json").read_text())}
    assert rows["text", "repeat", "wer"]["value"] == rows["blspkd", "repeat", "wer"]["value"] == 0
    assert rows["chance", "repeat", "wer"]["value"] > 50
    assert rows["blspkd", "alignment", "count_accuracy"]["value"] == 100
    assert {row["seed"] for row in rows.values()} == {3}
    shown = capsys.readouterr().out
    page = (recipe / "RESULTS.md").read_text()
    assert "repeat WER" in shown and "BLSP-KD" in shown and "two dogs ran" in shown
    assert page.startswith("# Results of a toy") and "./run.sh --expdir exp" in page and str(recipe) not in page
    for task in ("repeat", "translate"):
        for end in ("", ".text", ".chance"):
            folder = recipe / "exp/run" / f"decode_{task}_test{end}"
            assert {path.name for path in folder.iterdir()} == {"hyp.jsonl", "text", "decode.json", "score.json"}


def test_results_are_printed_without_a_page(recipe, capsys):
    decode.main(DECODE)
    score.main(SCORE)
    capsys.readouterr()
    results.main(["--exp_dir", "exp/run"])
    assert "repeat WER" in capsys.readouterr().out and not (recipe / "RESULTS.md").exists()


@pytest.mark.parametrize("main, words, message", [
    (decode.main, [*DECODE, "--batchsize", "3"], "did you mean 'batch_size'"),
    (decode.main, [*DECODE, "--batch_size", "0"], "batch_size: 0"),
    (decode.main, [*DECODE, "--systems", "[speech, typed]"], "systems: 'typed'"),
    (decode.main, [*DECODE, "--model_dir", "exp/run/nosuch"], "exp/run/nosuch: there is no trained model here"),
    (decode.main, [*DECODE, "--data_dir", "data/nosuch"], "data/nosuch"),
    (decode.main, [*DECODE, "--config", "conf/nosuch.yaml"], "conf/nosuch.yaml: there is no such configuration file"),
    (decode.main, DECODE[2:], "tasks: none"),
    (score.main, SCORE, "decode first"),
    (score.main, [*SCORE, "--num_bootstrap", "1"], "num_bootstrap"),
    (results.main, ["--exp_dir", "exp/run"], "score first"),
    (results.main, ["--exp_dir", "exp/run", "--nosuch", "1"], "unrecognized arguments: --nosuch"),
])
def test_mistakes_end_in_one_message(recipe, capsys, main, words, message):
    assert message in refused(main, words, capsys)
    assert not list(recipe.rglob("decode_*")) and not list(recipe.rglob("*.tmp-*"))


def test_a_missing_preamble_is_an_error_and_writes_no_page(recipe, capsys):
    decode.main(DECODE)
    score.main(SCORE)
    words = ["--exp_dir", "exp/run", "--output", "RESULTS.md", "--preamble", "nosuch.md"]
    message = refused(results.main, words, capsys)
    assert "nosuch.md" in message and not (recipe / "RESULTS.md").exists()


def test_a_real_model_is_decoded_and_scored(tiny_llm, tiny_encoder, data_dir, tmp_path, monkeypatch, capsys):
    """Random weights: what comes out is noise, but it comes out, and the same when chance is decoded by itself."""
    exp_dir = tmp_path / "exp"
    torch.manual_seed(0)
    model = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, pad_to_30s=False, plora_rank=2,
                        adapter_options={"num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2, "ffn_dim": 32})
    SpeechLlm.from_config(model, PromptConfig()).save_pretrained(exp_dir / "model")
    (exp_dir / "config.yaml").write_text("{system: blspkd+plora, training: {seed: 0}, model: {adapter: cformer}}")
    (tmp_path / "decode.yaml").write_text(yaml.safe_dump({"tasks": {
        "repeat": {"instruction": "Repeat the text.", "metrics": ["wer", "bleu"]}}, "num_bootstrap": 20,
        "max_new_tokens": 6, "batch_size": 5, "device": "cpu"}))
    options = ["--config", str(tmp_path / "decode.yaml"), "--model_dir", str(exp_dir / "model"), "--data_dir", data_dir]
    decode.main([*options, "--exp_dir", str(exp_dir)])
    score.main(["--config", str(tmp_path / "decode.yaml"), "--exp_dir", str(exp_dir), "--test_sets", "train"])
    results.main(["--exp_dir", str(exp_dir)])
    assert "BLSP-KD+plora" in capsys.readouterr().out
    decode.main([*options, "--exp_dir", str(tmp_path / "alone"), "--systems", "[chance]"])
    name = "decode_repeat_train.chance/hyp.jsonl"
    assert (exp_dir / name).read_text() == (tmp_path / "alone" / name).read_text()
    monkeypatch.setattr(Listener, "from_pretrained", None)
    decode.main([*options, "--exp_dir", str(exp_dir)])  # everything is there: no model is loaded
