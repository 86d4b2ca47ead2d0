"""vLLM behind the server: with a stand-in of vLLM, and with the real one that BLSPKD_VLLM_PYTHON names, if it does."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import venv
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from blspkd.bin.blspkd import main
from blspkd.config import ModelConfig, PromptConfig
from blspkd.errors import ConfigError, ModelError
from blspkd.models.chat import SpeechLLM
from blspkd.models.reply import ChatOptions
from blspkd.models.speech_llm import SpeechLlm
from blspkd.serve.batcher import Batcher
from blspkd.serve.metrics import Metrics
from blspkd.serve.settings import Settings
from blspkd.serve.vllm_check import check
from blspkd.serve.vllm_engine import VllmSpeechLLM

REAL = os.environ.get("BLSPKD_VLLM_PYTHON", "")
ADAPTER = {"num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2, "ffn_dim": 32}
RATE = 16000


@pytest.fixture(scope="module")
def python(vllm_stand_in) -> str:
    return vllm_stand_in


def save_adapter_only(llm: str, encoder: str, folder: Path) -> str:
    """A folder as training with --plora_rank 0 leaves it; the adapter is random."""
    torch.manual_seed(0)
    config = ModelConfig(llm=llm, speech_encoder=encoder, adapter_options=ADAPTER, pad_to_30s=False, plora_rank=0)
    SpeechLlm.from_config(config, PromptConfig("Continue:")).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def adapter_only(tiny_llm, tiny_encoder, tmp_path_factory) -> str:
    return save_adapter_only(tiny_llm, tiny_encoder, tmp_path_factory.mktemp("adapter") / "model")


@pytest.fixture(scope="module")
def ours(adapter_only) -> SpeechLLM:
    return SpeechLLM.from_pretrained(adapter_only, device="cpu")


@pytest.fixture(scope="module")
def model(adapter_only, python) -> VllmSpeechLLM:
    model = VllmSpeechLLM.from_pretrained(adapter_only, python, device="cpu")
    yield model
    model.process.close()


def conversations(count: int, seed: int = 0) -> list[list[dict]]:
    """Each with a text and a recording of its own."""
    generator = np.random.default_rng(seed)
    return [[{"role": "user", "content": [
        {"type": "text", "text": f"Say {number}."},
        {"type": "audio", "audio": (RATE, (generator.standard_normal(int(RATE * seconds)) / 10).astype(np.float32))}]}]
        for number, seconds in enumerate(generator.uniform(0.4, 1.8, count))]


def test_replies_equal_those_of_the_llm_in_transformers(model, ours):
    talks = conversations(6)
    options = [ChatOptions(20), ChatOptions(1), ChatOptions(20, stop=("a", "e")), ChatOptions(5), ChatOptions(30),
               ChatOptions(1000)]
    expected = ours.generate(ours.prepare(talks), options)
    pieces = [""] * len(talks)

    def told(row, piece):
        pieces[row] += piece

    found = model.generate(model.prepare(talks), options, told)
    assert found == expected and pieces == [reply.text for reply in found]
    assert {reply.finish_reason for reply in found} >= {"length", "stop"}
    assert max(reply.prompt_tokens + reply.completion_tokens for reply in found) <= model.context == ours.context


def test_texts_alone_are_read_too(model, ours):
    talk = [{"role": "user", "content": "the farmer sold six bags"}]
    assert model.chat(talk, max_new_tokens=9) == ours.chat(talk, max_new_tokens=9)
    with model.stream(talk, max_new_tokens=9) as stream:
        assert "".join(stream) == stream.reply.text


def test_a_seed_repeats_a_reply(model):
    [talk] = conversations(1)
    drawn = [model.chat(talk, max_new_tokens=20, temperature=1.5, seed=seed).token_ids for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_model_in_another_precision_sends_its_embeddings_in_that(adapter_only, python):
    model = VllmSpeechLLM.from_pretrained(adapter_only, python, device="cpu", dtype="bfloat16")
    assert model.chat(conversations(1)[0], max_new_tokens=3).completion_tokens
    model.process.close()
    model.process.close()
    with pytest.raises(ModelError, match="vLLM's process has ended"):
        model.chat(conversations(1)[0])


def test_only_the_front_of_the_llm_is_in_our_memory(model, ours):
    count = [sum(weight.numel() for weight in one.listener.model.llm.parameters()) for one in (model, ours)]
    assert count[0] == ours.listener.model.embedding_table.numel() < count[1]


@pytest.mark.parametrize("ends", ["cancelled", "raised"])
def test_what_nobody_waits_for_is_aborted_in_vllm(model, monkeypatch, ends):
    """The steps of the next reply have tokens of no other."""
    turns = model.prepare(conversations(2))
    steps, written = [], {0: 0, 1: 0}
    told = model.process.told
    monkeypatch.setattr(model.process, "told", lambda: steps.append(told()) or steps[-1])

    def cancelled(row):
        written[row] += 1
        if ends == "raised" and written[row] == 3:
            raise RuntimeError("gone")
        return row == 0 and written[0] >= 3

    options = [ChatOptions(300), ChatOptions(8)]
    if ends == "raised":
        with pytest.raises(RuntimeError, match="gone"):
            model.generate(turns, options, cancelled=cancelled)
    else:
        first, second = model.generate(turns, options, cancelled=cancelled)
        assert (first.finish_reason, first.completion_tokens) == ("cancelled", 3)
        assert second.finish_reason != "cancelled"
    steps.clear()
    reply = model.generate(turns[:1], [ChatOptions(12)])[0]
    last = str(model.process.sent)
    ours = [set(step["tokens"]) for step in steps if last in step["tokens"]]  # and what was under way
    assert reply.completion_tokens == 12 and ours == [{last}] * 12


def test_a_row_that_vllm_lets_wait_can_be_cancelled_and_one_that_it_cuts_ends(model, monkeypatch):
    [turn, other] = model.prepare(conversations(2))
    first = model.process.sent + 1
    steps = iter([{"tokens": {str(first): [7]}, "ended": []}, {"tokens": {}, "ended": [str(first)]}])
    monkeypatch.setattr(model.process, "tell", lambda *order: None)
    monkeypatch.setattr(model.process, "told", lambda: next(steps))
    cut, waiting = model.generate([turn, other], [ChatOptions()] * 2, cancelled=lambda row: row == 1)
    assert (cut.token_ids, cut.finish_reason) == ([7], "length")
    assert (waiting.token_ids, waiting.finish_reason) == ([], "cancelled")


# What cannot be


def run(capsys, *words) -> str:
    """The message of `blspkd serve`, which fails."""
    with pytest.raises(SystemExit) as end:
        main(["serve", *map(str, words)])
    message = capsys.readouterr().err
    assert end.value.code == 1 and message.startswith("error: ") and message.count("\n") == 1
    return message


def test_plora_is_refused_before_anything_else(model_folder, capsys, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda *_: pytest.fail("something is loaded"))
    message = run(capsys, model_folder, "--engine", "vllm", "--vllm_python", "nowhere")
    assert "speech positions only" in message and "--plora_rank 0" in message


def test_an_interpreter_that_cannot_be_is_named(adapter_only, capsys, tmp_path):
    broken = tmp_path / "python"
    broken.write_text("neither a program nor a script")
    broken.chmod(0o755)
    for name, reason in {"nowhere/bin/python": "no such program", str(tmp_path): "no such program",
                         "true": "no Python interpreter", "false": "no Python interpreter",
                         str(broken): "cannot be run"}.items():
        message = run(capsys, adapter_only, "--engine", "vllm", "--vllm_python", name)
        assert f"--vllm_python {name}: " in message and reason in message


def test_an_interpreter_without_vllm_is_told_where_it_belongs(adapter_only, tmp_path):
    venv.create(tmp_path / "bare", symlinks=True)
    with pytest.raises(ConfigError, match="has no vLLM; install it there"):
        check(adapter_only, None, str(tmp_path / "bare" / "bin" / "python"))


@pytest.mark.parametrize("words", [["--engine", "vllm"], ["--vllm_python", "python3"], ["--engine", "llamacpp"]])
def test_options_that_do_not_go_together(adapter_only, capsys, words):
    assert "engine: " in run(capsys, adapter_only, *words)


@pytest.mark.parametrize("behaviour, message", [
    ("unloadable", r"vLLM has failed \(ValueError: no architecture of this kind\)"),
    ("scaling", "does not read embeddings of this LLM as it reads its tokens")])
def test_an_llm_that_vllm_cannot_run(adapter_only, python, monkeypatch, behaviour, message):
    monkeypatch.setenv("STAND_IN", behaviour)
    with pytest.raises(ModelError, match=message):
        VllmSpeechLLM.from_pretrained(adapter_only, python, device="cpu")


def test_a_worker_that_dies_is_one_message_and_the_end_of_the_server(adapter_only, python, monkeypatch):
    monkeypatch.setenv("STAND_IN", "deadly")
    model = VllmSpeechLLM.from_pretrained(adapter_only, python, device="cpu")
    with pytest.raises(ModelError, match="vLLM's process has ended by signal SIGKILL"):
        model.generate(model.prepare(conversations(2)), [ChatOptions(50)] * 2)
    answers, ended = [], threading.Event()
    batcher = Batcher(lambda: model, Settings(api_key=""), Metrics(), ended.set)
    job = type("Job", (), {"cancelled": False, "options": ChatOptions(), "first_token": None, "answered": False,
                           "request": "a", "seconds": 0.0,
                           "conversation": model.read(conversations(1)[0]),
                           "tell": lambda self, answer: answers.append(answer)})()
    batcher.submit(job)
    batcher.start()
    assert ended.wait(60) and isinstance(batcher.failure, ModelError)
    assert [answer.status for answer in answers] == [500]


# The command


@pytest.fixture
def server(adapter_only, python):
    """`blspkd serve` as a process of its own, with its worker: (process, port, the worker's process id)."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "blspkd.bin.blspkd", "serve", adapter_only, "--engine", "vllm", "--vllm_python", python,
         "--port", str(port), "--device", "cpu"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"STAND_IN": "slow"})
    while ask(port, "GET", "/health")[0] != 200:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    [worker] = [child for children in Path(f"/proc/{process.pid}/task").glob("*/children")
                for child in children.read_text().split()]
    yield process, port, worker
    process.kill()
    process.communicate()


def ask(port: int, method: str, path: str, body: dict | None = None) -> tuple[int, dict]:
    """Status 0: nobody is there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with suppress(ConnectionRefusedError):
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    return 0, {}


def is_gone(worker: str, seconds: float = 10.0) -> bool:
    """Whether the process ends within this time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError):
            if Path(f"/proc/{worker}/stat").read_text().rpartition(") ")[2][0] != "Z":
                time.sleep(0.05)
                continue
        return True
    return False


def test_sigterm_finishes_what_runs_and_leaves_no_process(server, ours):
    process, port, worker = server
    talk = {"model": "blspkd", "messages": [{"role": "user", "content": "we found two red cats"}], "max_tokens": 40}
    answers = []
    asking = threading.Thread(target=lambda: answers.append(ask(port, "POST", "/v1/chat/completions", talk)))
    asking.start()
    time.sleep(0.4)
    process.send_signal(signal.SIGTERM)
    asking.join()
    [(status, answer)] = answers
    expected = ours.chat(talk["messages"], max_new_tokens=40)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, expected.text)
    printed, messages = process.communicate(timeout=30)
    assert process.returncode == 0 and not printed and "error" not in messages and "printed by vLLM" in messages
    assert is_gone(worker)


def test_a_server_that_is_killed_leaves_no_process(server):
    process, _, worker = server
    process.kill()
    assert is_gone(worker)


# The real one


@pytest.mark.skipif(not REAL, reason="BLSPKD_VLLM_PYTHON names no interpreter that has vLLM")
def test_vllm_itself_replies_as_transformers_does(tiny_llm, tiny_encoder, tmp_path, monkeypatch):
    """64 of 64; the LLM has wider heads than the other tests', as vLLM's kernels want them."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    config = LlamaConfig.from_pretrained(tiny_llm, hidden_size=128, num_attention_heads=4, head_dim=32,
                                         initializer_range=0.1)
    shutil.copytree(tiny_llm, tmp_path / "llm")
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llm")
    folder = save_adapter_only(str(tmp_path / "llm"), tiny_encoder, tmp_path / "model")
    ours = SpeechLLM.from_pretrained(folder, device="cpu")
    model = VllmSpeechLLM.from_pretrained(folder, REAL, device="cpu")
    talks, options = conversations(64), [ChatOptions(32)] * 64
    expected = ours.generate(ours.prepare(talks), options)
    found = model.generate(model.prepare(talks), options)
    assert len({tuple(reply.token_ids) for reply in expected}) > 32
    assert sum(one == other for one, other in zip(found, expected, strict=True)) == 64
    [drawn, again] = [model.chat(talks[0], temperature=1.0, top_p=0.9, seed=5, max_new_tokens=20) for _ in range(2)]
    assert drawn == again
    cancelled = model.generate(model.prepare(talks[:2]), [ChatOptions(400)] * 2, cancelled=lambda row: row == 0)
    assert cancelled[0].finish_reason == "cancelled" and cancelled[0].completion_tokens <= 1
    process = model.process.process
    model.process.close()
    assert process.poll() is not None
