"""A small model behind a real server, and recordings to send to it."""

import base64
import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
import torch

from blspkd.config import ModelConfig, PromptConfig
from blspkd.models.chat import SpeechLLM
from blspkd.models.speech_llm import SpeechLlm
from blspkd.serve.server import Server
from blspkd.serve.settings import Settings

RATE = 16000
ADAPTER = {"num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2, "ffn_dim": 32}
SUBTYPES = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}


@pytest.fixture(scope="session")
def model_folder(tiny_llm, tiny_encoder, tmp_path_factory) -> str:
    """A folder as training leaves it; the trained parts are random."""
    torch.manual_seed(0)
    config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, adapter_options=ADAPTER, pad_to_30s=False,
                         plora_rank=2)
    network = SpeechLlm.from_config(config, PromptConfig("Continue:"))
    for name, weight in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    folder = tmp_path_factory.mktemp("served") / "model"
    network.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def model(model_folder) -> SpeechLLM:
    return SpeechLLM.from_pretrained(model_folder, device="cpu")


@pytest.fixture(scope="session")
def running() -> Callable:
    """`with running(model, **settings) as server`: a server that listens on a free port."""

    @contextmanager
    def run(model, **settings) -> Iterator[Server]:
        server = Server(model, Settings(port=0, **{"model_name": "tiny", "api_key": "", **settings}))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started or server.batcher.state == "loading":
            time.sleep(0.01)
        try:
            yield server
        finally:
            server.should_exit = True
            thread.join(20)
            server.socket.close()
            assert not thread.is_alive()

    return run


@pytest.fixture
def slow(model) -> Iterator[Callable[[float], None]]:
    """`slow(seconds)`: every step of the LLM takes so much longer."""
    handles = []
    yield lambda seconds: handles.append(
        model.listener.model.causal_lm.base_model.register_forward_pre_hook(lambda *_: time.sleep(seconds)))
    for handle in handles:
        handle.remove()


@pytest.fixture(scope="session")
def recording() -> Callable[..., bytes]:
    """`recording(seconds=1.0, seed=0, format="wav")`: the bytes of a file."""

    def make(seconds: float = 1.0, seed: int = 0, format: str = "wav", rate: int = RATE, channels: int = 1) -> bytes:
        generator = np.random.default_rng(seed)
        times = np.arange(int(seconds * rate)) / rate
        voice = sum(np.sin(2 * np.pi * f * times + generator.uniform(0, 6)) for f in generator.uniform(90, 2500, 6))
        samples = 0.05 * voice * (1 + np.sin(2 * np.pi * generator.uniform(1, 4) * times))
        file = io.BytesIO()
        soundfile.write(file, np.stack([samples] * channels, axis=1), rate, SUBTYPES[format], format=format.upper())
        return file.getvalue()

    return make


@pytest.fixture(scope="session")
def part() -> Callable[[bytes, str], dict]:
    """`part(bytes, format="wav")`: as OpenAI's messages have audio."""
    return lambda data, format="wav": {"type": "input_audio", "input_audio": {
        "data": base64.b64encode(data).decode(), "format": format}}


@pytest.fixture(scope="session")
def ask_raw() -> Callable[..., tuple[int, dict, bytes]]:
    """`ask_raw(address, method, path, body=None, headers={})`: one request on a connection of its own."""

    def send(address: str, method: str, path: str, body=None, headers=None) -> tuple[int, dict, bytes]:
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
        if isinstance(body, dict):
            body, headers = json.dumps(body), {"Content-Type": "application/json", **(headers or {})}
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    return send
