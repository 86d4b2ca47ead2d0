"""A trained model on the hub, loaded by transformers' Auto classes."""

import importlib.util
import subprocess
from pathlib import Path

import torch

from blspkd.config import ModelConfig, PromptConfig
from blspkd.models.chat import SpeechLLM
from blspkd.models.speech_llm import SpeechLlm

_spec = importlib.util.spec_from_file_location("hub_standin", Path(__file__).parents[1] / "hub_standin.py")
hub_standin = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hub_standin)

OPTIONS = {"num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2, "ffn_dim": 32}
CODE = """
from transformers import AutoModelForMultimodalLM, AutoProcessor
from blspkd.models.huggingface import register
register()
model, processor = (kind.from_pretrained("someone/model", revision="v1") for kind in
                    (AutoModelForMultimodalLM, AutoProcessor))
samples = [0.1 * (-1) ** (i // 40) for i in range(16000)]
inputs = processor.apply_chat_template([{"role": "user", "content": [
    {"type": "text", "text": "Translate:"}, {"type": "audio", "audio": samples, "sampling_rate": 16000}]}])
print(model.generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1]:].tolist())
"""


def test_a_model_of_the_hub_is_loaded_by_id_and_revision(warm, tiny_llm, tiny_encoder, tmp_path):
    torch.manual_seed(0)
    SpeechLlm.from_config(ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, adapter_options=OPTIONS,
                                      pad_to_30s=False), PromptConfig("Continue:")).save_pretrained(tmp_path / "model")
    samples = [0.1 * (-1) ** (i // 40) for i in range(16000)]
    expected = SpeechLLM.from_pretrained(tmp_path / "model", device="cpu").chat(
        [{"role": "user", "content": [{"type": "text", "text": "Translate:"},
                                      {"type": "audio", "audio": (16000, samples)}]}], max_new_tokens=8)
    with hub_standin.serve() as hub:
        hub.add("someone/model", tmp_path / "model", branch="v1")
        hub.add("someone/model", {"config.json": b"{}"})
        done = subprocess.run([warm / "bin/python", "-c", CODE], env=hub.environment(tmp_path / "cache"), timeout=300,
                              capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[-2:] == [str(expected.token_ids), ""], done.stderr
