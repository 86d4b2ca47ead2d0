"""What README's section "Use it" and blspkd/serve/README.md show is run as it stands there."""

import os
import re
import shlex
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers
from packaging.version import Version

from blspkd.config import ModelConfig, PromptConfig
from blspkd.models.speech_llm import SpeechLlm

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = {"num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2, "ffn_dim": 32}
USE_IT = re.search(r"^## Use it\n(.*?)^## ", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)[1]
MORE = (ROOT / "blspkd/serve/README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", USE_IT + MORE, re.M | re.S)
PYTHON = [block for language, block in BLOCKS if language == "python"]
COMMANDS = [shlex.split(line, comments=True) for language, block in BLOCKS if not language
            for line in block.splitlines()]
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, tiny_llm, tiny_encoder) -> Path:
    """A folder in which a model was trained, with a recording."""
    folder = tmp_path_factory.mktemp("recipe")
    torch.manual_seed(0)
    config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, adapter_options=OPTIONS, pad_to_30s=False)
    SpeechLlm.from_config(config, PromptConfig("Continue:")).save_pretrained(folder / "exp/train/model")
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000)
    soundfile.write(folder / "speech.wav", noise, 16000)
    return folder


@pytest.fixture
def start(warm, recipe) -> Callable[[list[str]], subprocess.Popen]:
    """Run `blspkd` or `python` in the folder, with the warm Python."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    commands = {"python": [warm / "bin/python"], "blspkd": [warm / "bin/python", "-m", "blspkd.bin.blspkd"]}
    return lambda words: subprocess.Popen([*commands[words[0]], *words[1:]], cwd=recipe, env=environment, text=True,
                                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@contextmanager
def server(process: subprocess.Popen) -> Iterator[str]:
    """Its address, while it runs."""
    try:
        yield next(found[0] for line in process.stderr if (found := re.search(r"http://[\d.]+:\d+", line)))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=300)
    assert process.returncode == 0


def test_there_is_python_and_there_are_commands():
    assert len(PYTHON) == 4
    assert {words[1] for words in COMMANDS} == {"chat", "transcribe", "serve", "info", "push"}


@pytest.mark.parametrize("block", [block for block in PYTHON if ADDRESS not in block], ids=range(3))
def test_python_runs(block, start):
    if "pipeline" in block and Version(transformers.__version__) < Version("5.24"):
        pytest.skip("pipelines of this release want librosa")
    process = start(["python", "-c", block])
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.strip()


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[1] != "serve"], ids=" ".join)
def test_commands_run(words, start):
    process = start(words)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.strip()


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[1] == "serve"], ids=" ".join)
def test_the_server_answers_a_browser_and_openais_client(words, start):
    pytest.importorskip("fastapi")
    pytest.importorskip("openai")
    [block] = [block for block in PYTHON if ADDRESS in block]
    with server(start([*words, "--port", "0"])) as address:
        with urllib.request.urlopen(address, timeout=60) as page:
            assert b"<title>" in page.read()
        process = start(["python", "-c", block.replace(ADDRESS, address)])
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.strip()
