"""The server as a whole: keys, names, the page, its health, its figures and its end."""

import base64
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import openai
import pytest

from blspkd.errors import ConfigError, ModelError
from blspkd.serve.server import Server
from blspkd.serve.settings import Settings

HELLO = {"messages": [{"role": "user", "content": "the farmer sold"}], "max_tokens": 3}


@pytest.fixture(scope="module")
def server(model, running):
    with running(model) as server:
        yield server


def test_the_page_may_run_its_own_code_and_talk_to_this_server_only(server, ask_raw):
    status, headers, page = ask_raw(server.address, "GET", "/")
    assert status == 200 and headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'" and policy["media-src"] == "blob:"
    scripts = re.findall(rb"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    digests = [f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" for script in scripts]
    assert digests and set(digests) | {"blob:"} == set(policy["script-src"].split())
    assert "unsafe" not in headers["content-security-policy"] and b"style=" not in re.sub(
        rb"<(script|style)>.*?</\1>", b"", page, flags=re.DOTALL)
    assert not re.search(rb"(src|href)=[\"']?(https?:)?//", page)


def test_every_answer_tells_browsers_to_be_strict(server, ask_raw):
    for path in ("/", "/health", "/v1/models", "/nothing"):
        headers = ask_raw(server.address, "GET", path)[1]
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in headers["content-security-policy"] and "server" not in headers
        assert not any(name.startswith("access-control") for name in headers)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:1234", "[::1]:8000", "127.0.0.1:99"])
def test_names_of_this_machine_are_answered(server, ask_raw, host):
    assert ask_raw(server.address, "GET", "/health", headers={"Host": host})[0] == 200


@pytest.mark.parametrize("headers", [
    {"Host": "evil.example"}, {"Host": "evil.example:8000"}, {"Host": ""}, {"Host": "192.168.1.7"},
    {"Host": "127.0.0.1.evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"},
    {"Origin": "http://localhost:1"}, {"Origin": "file://"}])
def test_other_names_and_other_sites_are_not(server, ask_raw, headers):
    status, _, answer = ask_raw(server.address, "POST", "/v1/chat/completions", HELLO, headers)
    assert status == 403 and json.loads(answer)["error"]["type"] == "permission_error"


def test_the_pages_own_requests_are_answered(server, ask_raw):
    assert ask_raw(server.address, "GET", "/v1/models", headers={"Origin": server.address})[0] == 200


def test_a_key_is_asked_for_everywhere_but_for_the_page_and_health(model, running, ask_raw):
    with running(model, api_key="secret", allowed_hosts=("talk.example",)) as server:
        assert [ask_raw(server.address, "GET", path)[0] for path in ("/", "/health", "/metrics", "/v1/models")] == [
            200, 200, 401, 401]
        for key in ("", "Bearer", "Bearer wrong", "Basic secret", "Bearer secrets", "Bearer s\xe9cret"):
            status, headers, answer = ask_raw(server.address, "GET", "/v1/models", headers={"Authorization": key})
            assert status == 401 and headers["www-authenticate"] == "Bearer" and b"secret" not in answer
        right = {"Authorization": "Bearer secret"}
        assert ask_raw(server.address, "GET", "/metrics", headers=right)[0] == 200
        assert ask_raw(server.address, "GET", "/health", headers={"Host": "talk.example"})[0] == 200
        with openai.OpenAI(base_url=f"{server.address}/v1", api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                client.models.list()
            assert client.with_options(api_key="secret").models.list().data[0].id == "tiny"


def test_an_open_address_answers_to_addresses_but_not_to_any_name(model, running, ask_raw):
    with running(model, host="0.0.0.0", api_key="secret") as server:
        for host, expected in (("192.168.1.7:80", 200), (socket.gethostname(), 200), ("evil.example", 403)):
            assert ask_raw(server.address, "GET", "/health", headers={"Host": host})[0] == expected


def test_figures_are_counted(server, ask_raw):
    assert ask_raw(server.address, "GET", "/health")[0] == 200
    assert ask_raw(server.address, "POST", "/v1/chat/completions", HELLO)[0] == 200
    ask_raw(server.address, "GET", "/made/up")
    ask_raw(server.address, "GET", "/made/up/too")
    text = ask_raw(server.address, "GET", "/metrics")[2].decode()
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures['blspkd_requests_total{endpoint="/v1/chat/completions",status="200"}']) >= 1
    assert float(figures['blspkd_requests_total{endpoint="other",status="404"}']) >= 2
    assert "made" not in text
    for name in ("blspkd_queue_length", "blspkd_batch_size_count", "blspkd_audio_seconds_total",
                 "blspkd_generated_tokens_total", "blspkd_first_token_seconds_count",
                 'blspkd_request_seconds_count{endpoint="/health"}'):
        assert name in figures


def test_while_the_model_is_loaded_health_says_so(model, running, ask_raw):
    may_load = threading.Event()
    server = Server(lambda: may_load.wait() and model, Settings(port=0, api_key=""))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    status, _, answer = ask_raw(server.address, "GET", "/health")
    assert (status, json.loads(answer)["status"]) == (503, "loading")
    status, headers, answer = ask_raw(server.address, "POST", "/v1/chat/completions", HELLO)
    assert status == 503 and headers["retry-after"] and json.loads(answer)["error"]["type"] == "server_error"
    may_load.set()
    while ask_raw(server.address, "GET", "/health")[0] != 200:
        time.sleep(0.01)
    server.should_exit = True
    thread.join(20)


def test_a_model_that_cannot_be_loaded_ends_the_server_with_the_reason():
    def load():
        raise ModelError("x: there is no such folder")
    with pytest.raises(ModelError, match="no such folder"):
        Server(load, Settings(port=0, api_key="")).run()


def test_a_port_that_is_taken_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ConfigError, match="choose another --port"):
            Server(lambda: None, Settings(port=taken.getsockname()[1], api_key=""))


SLOW_SERVER = """
import sys, time
from blspkd.models.chat import SpeechLLM
from blspkd.serve.server import serve
from blspkd.serve.settings import Settings
model = SpeechLLM.from_pretrained(sys.argv[1], device="cpu")
model.listener.model.causal_lm.base_model.register_forward_pre_hook(lambda *_: time.sleep(0.05))
serve(model, Settings(port=0))
"""


def test_sigterm_finishes_what_runs_and_admits_no_more(warm, model, model_folder, ask_raw):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([warm / "bin/python", "-c", SLOW_SERVER, model_folder], stderr=subprocess.PIPE,
                               text=True, env=environment)
    try:
        address = next(found[0] for line in process.stderr if (found := re.search(r"http://[\d.:]+", line)))
        body = {**HELLO, "max_tokens": 30, "stream": True}
        request = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            beginning = answer.readline()
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            with pytest.raises(OSError):
                ask_raw(address, "GET", "/health")
            events = (beginning + answer.read()).decode().split("\n\n")
        assert events[-2] == "data: [DONE]"
        text = "".join(json.loads(event[6:])["choices"][0]["delta"].get("content", "") for event in events[:-2])
        assert text == model.chat(HELLO["messages"], max_new_tokens=30).text
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
