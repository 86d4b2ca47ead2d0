"""A small trained model, recordings, and the command as a process."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from blspkd import SpeechLLM
from blspkd.config import ModelConfig, PromptConfig
from blspkd.models.speech_llm import SpeechLlm

ROOT = Path(__file__).resolve().parents[2]
ADAPTER = {"num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2, "ffn_dim": 32}


@pytest.fixture(scope="session")
def trained(tiny_llm, tiny_encoder, tmp_path_factory) -> Path:
    """A folder as training leaves it; the trained parts are random."""
    torch.manual_seed(0)
    config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, adapter_options=ADAPTER, pad_to_30s=False,
                         attn_implementation="eager", plora_rank=2)
    folder = tmp_path_factory.mktemp("exp") / "model"
    SpeechLlm.from_config(config, PromptConfig("Continue:")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(trained) -> SpeechLLM:
    return SpeechLLM.from_pretrained(trained, device="cpu")


@pytest.fixture(scope="session")
def recordings(tmp_path_factory) -> list[Path]:
    """Three of them, in two formats."""
    folder = tmp_path_factory.mktemp("recordings")
    generator = np.random.default_rng(3)
    paths = []
    for number, (name, seconds) in enumerate((("one.wav", 0.9), ("two.flac", 1.3), ("three.wav", 1.6))):
        soundfile.write(folder / name, generator.standard_normal(int(16000 * seconds)) * 0.05 * (number + 1), 16000)
        paths.append(folder / name)
    return paths


@pytest.fixture(scope="session")
def process(warm) -> Callable[..., subprocess.CompletedProcess]:
    """Run `blspkd` with these words in a process of its own."""

    def run(*words, **options) -> subprocess.CompletedProcess:
        variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
                     **options.pop("variables", {})}
        return subprocess.run([warm / "bin/python", "-m", "blspkd.bin.blspkd", *map(str, words)],
                              env={**os.environ, **variables}, capture_output=True, timeout=120, check=False, **options)

    return run
