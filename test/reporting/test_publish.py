"""What is pushed is loaded again, and its trained weights are compared."""

from pathlib import Path

import pytest
import torch

from blspkd.config import ModelConfig, PromptConfig
from blspkd.errors import ModelError
from blspkd.models.speech_llm import SpeechLlm
from blspkd.reporting.publish import Upload, compare_loaded

ADAPTER = {"num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2, "ffn_dim": 32}


@pytest.fixture
def make(tiny_llm, tiny_encoder, tmp_path):
    """make(name, seed): the folder of a trained model with every kind of trained weights."""
    def call(name: str, seed: int) -> Path:
        torch.manual_seed(seed)
        config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, adapter_options=ADAPTER, pad_to_30s=False,
                             plora_rank=2, train_encoder=True)
        model = SpeechLlm.from_config(config, PromptConfig("Continue:"))
        with torch.no_grad():
            next(value for value in model.encoder.parameters() if value.requires_grad).add_(0.1 * seed)
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return call


def upload_of(folder: Path) -> Upload:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return Upload("someone/listener", files, [])


def test_a_model_equals_itself(make):
    folder = make("one", 1)
    compare_loaded(upload_of(folder), folder)


@pytest.mark.parametrize("name", ["adapter.safetensors", "speech_encoder.safetensors",
                                  "plora/adapter_model.safetensors"])
def test_other_trained_weights_are_noticed(make, name):
    folder, other = make("one", 1), make("other", 2)
    upload = upload_of(folder)
    upload.files[name] = other / name
    with pytest.raises(ModelError, match=f"someone/listener: {name}: other weights are loaded from there"):
        compare_loaded(upload, folder)


def test_a_model_that_cannot_be_loaded_is_told(make):
    folder = make("one", 1)
    (folder / "adapter.safetensors").write_bytes(b"0")
    with pytest.raises(ModelError, match="someone/listener: was pushed, but cannot be loaded from there"):
        compare_loaded(upload_of(folder), folder)
