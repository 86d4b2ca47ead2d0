"""`transformers serve` with a trained model, asked by the openai client."""

import base64
import io
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers

from blspkd.config import ModelConfig, PromptConfig
from blspkd.models.chat import SpeechLLM
from blspkd.models.speech_llm import SpeechLlm

openai = pytest.importorskip("openai", reason="`pip install openai`: the client")
for package in ("fastapi", "uvicorn"):
    pytest.importorskip(package, reason=f"`pip install {package}`: transformers serve needs it")
SERVING = Path(transformers.__file__).parent / "cli" / "serving" / "utils.py"
if not SERVING.is_file() or "MULTIMODAL" not in SERVING.read_text(encoding="utf-8"):
    pytest.skip("this release's `transformers serve` hands no recordings on to models that also read text "
                "(only text, images, and speech recognisers)", allow_module_level=True)

RATE = 16000
OPTIONS = {"num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2, "ffn_dim": 32}
START = 120  # seconds that a server may take


def wav(seconds: float, seed: int) -> bytes:
    samples = 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE))
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def recording(data: bytes) -> dict:
    """As OpenAI's API has it."""
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": "wav"}}


def heard(part: dict) -> dict:
    """The same part for `SpeechLLM.chat`."""
    if part["type"] == "text":
        return part
    return {"type": "audio", "audio": base64.b64decode(part["input_audio"]["data"])}


CONVERSATIONS = {
    "text only": [{"role": "user", "content": "she reads a book on monday"}],
    "one recording": [{"role": "user", "content": [text("Translate:"), recording(wav(0.7, 1))]}],
    "several recordings and turns": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [text("the farmer"), recording(wav(1.4, 2)), recording(wav(0.5, 3))]},
        {"role": "assistant", "content": "a book"},
        {"role": "user", "content": [text("Continue: <|end|>"), recording(wav(0.9, 4))]}],
}
every_conversation = pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)


@pytest.fixture(scope="module")
def folder(tiny_llm, tiny_encoder, tmp_path_factory) -> str:
    torch.manual_seed(0)
    network = SpeechLlm.from_config(
        ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, adapter_options=OPTIONS, pad_to_30s=False, plora_rank=2),
        PromptConfig("Continue:"))
    for name, weight in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    folder = tmp_path_factory.mktemp("served") / "model"
    network.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def client(warm, folder, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "serve.log"
    with log.open("w") as file:
        server = subprocess.Popen([warm / "bin/python", "-m", "blspkd.models.huggingface", "serve", folder, "--host",
                                   "127.0.0.1", "--port", str(port), "--device", "cpu"], stdout=file, stderr=file)
    try:
        end = time.monotonic() + START
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    finally:
        server.terminate()
        server.wait(30)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as reply:
            return reply.status == 200
    except (urllib.error.URLError, TimeoutError):
        return False


@pytest.fixture(scope="module")
def chat(folder) -> SpeechLLM:
    return SpeechLLM.from_pretrained(folder, device="cpu")


def expected(chat: SpeechLLM, conversation: list[dict]):
    messages = [message if isinstance(message["content"], str) else
                message | {"content": [heard(part) for part in message["content"]]} for message in conversation]
    return chat.chat(messages, max_new_tokens=12)


@every_conversation
def test_the_reply_is_that_of_chat(conversation, client, chat, folder):
    reply = client.chat.completions.create(model=folder, messages=conversation, max_tokens=12, temperature=0.0)
    wanted = expected(chat, conversation)
    assert reply.choices[0].message.content.strip() == wanted.text
    assert reply.usage.completion_tokens == wanted.completion_tokens
    # It calls every reply that is as long as it may be "length", whatever it ends with.
    assert reply.choices[0].finish_reason == ("length" if wanted.completion_tokens == 12 else "stop")


@every_conversation
def test_a_streamed_reply_is_the_same(conversation, client, chat, folder):
    pieces = [chunk.choices[0].delta.content or "" for chunk in
              client.chat.completions.create(model=folder, messages=conversation, max_tokens=12, temperature=0.0,
                                             stream=True)]
    whole = expected(chat, conversation).text
    assert "".join(pieces).strip() == whole.rstrip("\ufffd")  # the server keeps half a character at the end to itself


def test_no_address_in_a_request_is_opened(client, folder):
    with socket.create_server(("127.0.0.1", 0)) as outside:
        parts = [{"type": "audio_url", "audio_url": {"url": f"http://127.0.0.1:{outside.getsockname()[1]}/a.wav"}}]
        with pytest.raises(openai.APIError):
            client.chat.completions.create(model=folder, messages=[{"role": "user", "content": parts}], max_tokens=2)
        outside.settimeout(0.5)
        with pytest.raises(TimeoutError):
            outside.accept()


def test_the_server_alone_does_not_know_our_models(warm, folder):
    """It would have to run code from the folder (`trust_remote_code`), and there is none."""
    code = "import sys; sys.argv = ['transformers', 'serve', *sys.argv[1:]]; " \
           "from transformers.cli.transformers import main; main()"
    done = subprocess.run([warm / "bin/python", "-c", code, folder, "--device", "cpu", "--port", "0"], text=True,
                          capture_output=True, timeout=300, check=False)
    assert done.returncode != 0 and "`blspkd`" in " ".join(done.stderr.split())
