"""`blspkd serve` as a process: it tells its address, answers, and ends as it is told to."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from blspkd.bin.blspkd import main
from blspkd.serve import browser

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip("uvicorn")


def ask(request: str | urllib.request.Request) -> bytes:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        return answer.read()


def is_ready(address: str) -> bool:
    try:
        return bool(ask(f"{address}/health"))
    except urllib.error.HTTPError:
        return False


def test_it_tells_its_address_answers_and_ends(warm, trained, model):
    server = subprocess.Popen([warm / "bin/python", "-m", "blspkd.bin.blspkd", "serve", trained, "--port", "0",
                               "--device", "cpu", "--model_name", "tiny"], cwd=ROOT, stderr=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        address = re.search(r"http://127\.0\.0\.1:\d+", server.stderr.readline())[0]
        question = {"model": "tiny", "messages": [{"role": "user", "content": "a nurse"}], "max_tokens": 8}
        while b"<html" not in ask(f"{address}/") or not is_ready(address):  # the page is there while it loads
            time.sleep(0.1)
        asked = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(question).encode(),
                                       {"Content-Type": "application/json"})
        text = json.loads(ask(asked))["choices"][0]["message"]["content"]
        assert text == model.chat([{"role": "user", "content": "a nurse"}], max_new_tokens=8).text
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0 and server.stdout.read() == ""
    finally:
        server.kill()
        server.communicate()


def test_a_port_that_is_taken_is_one_message(trained, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as end:
        main(["serve", str(trained), "--port", str(taken.getsockname()[1])])
    told = capsys.readouterr().err
    assert end.value.code == 1 and "cannot be listened on" in told and told.count("\n") == 1


@pytest.mark.parametrize(("variables", "opened"), [
    ({"DISPLAY": ":0"}, True), ({"WAYLAND_DISPLAY": "w"}, True), ({}, False),
    ({"DISPLAY": ":0", "SSH_CONNECTION": "1 2 3 4"}, False)])
def test_a_browser_is_opened_where_somebody_sits_before_one(monkeypatch, variables, opened):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION", "SSH_TTY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", "linux")
    addresses = []
    monkeypatch.setattr(browser.webbrowser, "open", lambda address: addresses.append(address) or True)
    assert browser.open_page("http://127.0.0.1:8000") is opened
    assert addresses == ["http://127.0.0.1:8000"] * opened
