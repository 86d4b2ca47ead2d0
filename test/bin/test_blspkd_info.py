"""`blspkd info`: what a model is, from configurations and headers alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from blspkd.bin.blspkd import main
from blspkd.models.description import as_text, describe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def copy(trained, tiny_llm, tiny_encoder, tmp_path) -> Path:
    """A trained model that brings its base models along."""
    from blspkd.models.model_folder import copy_with_base_models

    copy_with_base_models(trained, tmp_path / "copy")
    return tmp_path / "copy"


def test_numbers_are_those_of_the_loaded_model(trained, model, tiny_llm):
    described, network = describe(str(trained)), model.listener.model
    count = {"adapter": network.adapter, "llm": network.causal_lm}
    assert described["trained"]["adapter"]["parameters"] == sum(p.numel() for p in count["adapter"].parameters())
    lora = sum(p.numel() for name, p in network.named_parameters() if "lora_" in name)
    assert described["trained"]["PLoRA"]["parameters"] == lora
    llm = described["base_models"]["llm"]
    assert llm["parameters"] + lora == sum(p.numel() for p in network.llm.parameters())
    assert (llm["found"], llm["whole"], llm["context"], llm["dtype"]) == (True, True, 512, "F32")
    assert llm["architecture"] == "LlamaForCausalLM"
    assert llm["bytes"] == (Path(tiny_llm) / "model.safetensors").stat().st_size
    encoder = described["base_models"]["speech_encoder"]
    assert (encoder["sampling_rate"], encoder["window_seconds"]) == (16000, 2)
    assert (described["plora_rank"], described["instruction"], described["problems"]) == (2, "Continue:", [])


def test_the_text_has_a_line_for_each_part(trained):
    lines = as_text(describe(str(trained))).splitlines()
    assert [line[2:18].strip() for line in lines[1:]] == ["LLM", "speech encoder", "adapter", "PLoRA", "instruction"]
    assert "LlamaForCausalLM, 0.0 M parameters in F32" in lines[1] and "reads 512 tokens" in lines[1]
    assert "16,000 Hz, windows of 2 s" in lines[2] and "rank 2, at speech positions" in lines[4]


def test_it_is_printed_as_text_or_json_and_needs_no_torch(trained):
    code = ("import sys\nfrom blspkd.bin.blspkd import main\n"
            f"main(['info', {str(trained)!r}, *sys.argv[1:]])\nsys.exit('torch' in sys.modules)")
    text, as_json = (subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True,
                                    check=False) for words in ([], ["--json"]))
    assert text.returncode == as_json.returncode == 0, text.stderr
    assert json.loads(as_json.stdout) == describe(str(trained))
    assert text.stdout == as_text(describe(str(trained))) + "\n"


def broken(folder: Path, how: str) -> None:
    llm = folder / "base" / "llm"
    if how == "cut":
        data = (llm / "model.safetensors").read_bytes()
        (llm / "model.safetensors").write_bytes(data[:-100])
    elif how == "gone":
        shutil.rmtree(llm)
    elif how == "other":
        (llm / "config.json").write_text("{}")
    elif how == "adapter gone":
        (folder / "adapter.safetensors").unlink()
    elif how == "adapter cut":
        (folder / "adapter.safetensors").write_bytes(b"\x05")


@pytest.mark.parametrize(("how", "problem"), [
    ("cut", "LLM is missing"), ("gone", "LLM is missing"), ("other", "config.json differs"),
    ("adapter gone", "adapter.safetensors: is missing"), ("adapter cut", "adapter.safetensors: is not a whole")])
def test_what_is_missing_is_told_and_ends_with_status_1(copy, how, problem, capsys):
    broken(copy, how)
    with pytest.raises(SystemExit) as end:
        main(["info", str(copy)])
    printed = capsys.readouterr()
    assert end.value.code == 1 and problem in printed.err
    assert "speech encoder" in printed.out and "16,000 Hz" in printed.out  # the rest is told all the same


def test_weights_that_were_cut_are_told_where_no_digest_was_recorded(copy):
    records = json.loads((copy / "base_models.json").read_text())
    for entry in records.values():
        del entry["files"]
    (copy / "base_models.json").write_text(json.dumps(records))
    broken(copy, "cut")
    described = describe(str(copy))
    assert not described["base_models"]["llm"]["whole"] and described["base_models"]["speech_encoder"]["whole"]
    assert "is cut short or has grown" in described["problems"][0]
