"""A model's own code is never run, whatever its folder says and whatever stands on standard input."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """\
import json, sys
from pathlib import Path

import torch

from blspkd.evaluation_config import TranscribeConfig
from blspkd.data.features import FeatureExtractor
from blspkd.data.prompts import load_tokenizer
from blspkd.errors import ModelError
from blspkd.evaluation.recogniser import Recogniser
from blspkd.models.base_models import load_llm
from blspkd.models.speech_encoder import SpeechEncoder

llm, encoder = sys.argv[1:]
loaders = {
    "tokenizer": lambda: load_tokenizer(llm),
    "LLM": lambda: load_llm(llm),
    "speech encoder": lambda: SpeechEncoder.from_pretrained(encoder, True, "eager", torch.float32),
    "feature extractor": lambda: FeatureExtractor(encoder, True),
    "recogniser": lambda: Recogniser(encoder, TranscribeConfig()),
}
said = {}
for name, load in loaders.items():
    try:
        load()
        said[name] = "loaded"
    except ModelError as error:
        said[name] = str(error)
print(json.dumps(said))
"""
LOADERS = ("tokenizer", "LLM", "speech encoder", "feature extractor", "recogniser")
CODE = """\
from pathlib import Path
Path({marker!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, WhisperFeatureExtractor, WhisperModel
class TheirConfig(LlamaConfig):
    model_type = "theirs"
TheirModel, TheirTokenizer, TheirExtractor = LlamaForCausalLM, PreTrainedTokenizerFast, WhisperFeatureExtractor
"""
AUTO_MAP = {"AutoConfig": "theirs.TheirConfig", "AutoFeatureExtractor": "theirs.TheirExtractor",
            **{name: "theirs.TheirModel" for name in ("AutoModel", "AutoModelForCausalLM", "AutoModelForCTC",
                                                      "AutoModelForSpeechSeq2Seq")}}


def change(file: Path, **values) -> None:
    settings = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({key: value for key, value in (settings | values).items() if value is not None}))


def with_code(source: str, folder: Path, built_in: bool) -> Path:
    """A copy of a model folder with code of its own; built_in: transformers knows its classes all the same."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    (folder / "theirs.py").write_text(CODE.format(marker=str(folder / "ran")))
    unknown = {} if built_in else {"model_type": "theirs", "architectures": ["TheirModel"]}
    change(folder / "config.json", auto_map=AUTO_MAP, **unknown)
    if (folder / "tokenizer_config.json").exists():
        change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "theirs.TheirTokenizer"]},
               **({} if built_in else {"tokenizer_class": "TheirTokenizer"}))
    if (folder / "preprocessor_config.json").exists():
        change(folder / "preprocessor_config.json", auto_map={"AutoFeatureExtractor": "theirs.TheirExtractor"},
               **({} if built_in else {"feature_extractor_type": "TheirExtractor"}))
    return folder


def answer_yes(python: Path, cache: Path, *arguments: object) -> subprocess.CompletedProcess:
    """Run Python with "yes" on standard input."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(cache),
                   "HF_MODULES_CACHE": str(cache / "modules")}
    return subprocess.run([python, *map(str, arguments)], cwd=ROOT, env=environment, input="yes\n" * 20,
                          capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module", params=[False, True], ids=["unknown", "built in"])
def loaded(request, warm, tiny_llm, tiny_encoder, tmp_path_factory):
    """(built in or not, {loader: "loaded" or its error}, standard output, whether any code was run)"""
    folder = tmp_path_factory.mktemp("models")
    llm = with_code(tiny_llm, folder / "llm", request.param)
    shutil.copytree(tiny_encoder, folder / "encoder")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(tiny_llm) / name, folder / "encoder")
    encoder = with_code(tiny_encoder, folder / "encoder", request.param)
    done = answer_yes(warm / "bin/python", folder / "cache", "-c", SCRIPT, llm, encoder)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    return request.param, said, done.stdout, any((path / "ran").exists() for path in (llm, encoder))


def test_no_code_of_a_model_is_run_and_nobody_is_asked(loaded):
    _, said, out, ran = loaded
    assert not ran and "Do you wish" not in out and said.keys() == set(LOADERS)


@pytest.mark.parametrize("name", LOADERS)
def test_what_transformers_knows_is_loaded_and_what_needs_its_own_code_is_refused(loaded, name):
    built_in, said, _, _ = loaded
    assert said[name] == "loaded" if built_in else "code of its own" in said[name]


def test_stage_2_ends_with_one_message(warm, tiny_llm, tmp_path):
    llm = with_code(tiny_llm, tmp_path / "llm", built_in=False)
    (tmp_path / "text").write_text("utt-1 a cat\n")
    (tmp_path / "utt2spk").write_text("utt-1 utt-1\n")
    command = ["-m", "blspkd.bin.generate_continuations", "--llm", llm, "--data_dir", tmp_path]
    done = answer_yes(warm / "bin/python", tmp_path / "cache", *command)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {llm}: ") and "code of its own" in done.stderr
    assert "Do you wish" not in done.stdout and not (llm / "ran").exists()


def test_loading_a_model_shows_no_foreign_bar(warm, tiny_llm):
    code = ("from transformers import AutoModelForCausalLM; from blspkd.data.pretrained import load_pretrained; "
            f"print(type(load_pretrained(AutoModelForCausalLM, {tiny_llm!r})).__name__)")
    done = subprocess.run([warm / "bin/python", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "LlamaForCausalLM") and "%" not in done.stderr
