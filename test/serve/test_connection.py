"""Connections on which no request comes, or none that is one."""

import json
import socket
import time
from urllib.parse import urlsplit

import pytest

from blspkd.serve import body, connection
from blspkd.serve.guard import _name
from blspkd.serve.settings import Settings


@pytest.fixture
def server(running, model):
    with running(model) as started:
        yield started


def connect(server) -> socket.socket:
    parts = urlsplit(server.address)
    return socket.create_connection((parts.hostname, parts.port), timeout=20)


def ends(sock: socket.socket) -> bytes:
    """What came until the other side closed."""
    received = b""
    try:
        while piece := sock.recv(4096):
            received += piece
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize("said", [b"", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: "])
def test_who_sends_no_head_is_put_out(server, monkeypatch, said):
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    with connect(server) as sock:
        began = time.perf_counter()
        sock.sendall(said)
        assert ends(sock) == b"" and time.perf_counter() - began < 10


def test_a_slow_request_is_not_put_out(server, ask_raw, slow, monkeypatch):
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    slow(0.1)
    body = {"messages": [{"role": "user", "content": "a book"}], "max_tokens": 10}
    assert ask_raw(server.address, "POST", "/v1/chat/completions", body)[0] == 200


def test_there_are_only_so_many_at_a_time(server, ask_raw, monkeypatch):
    monkeypatch.setattr(connection, "MOST", 3)
    monkeypatch.setattr(connection, "HEAD_SECONDS", 1.0)
    idle = [connect(server) for _ in range(8)]
    assert [ends(sock) for sock in idle[3:]] == [b""] * 5
    assert [ends(sock) for sock in idle[:3]] == [b""] * 3
    assert ask_raw(server.address, "GET", "/health")[0] == 200
    for sock in idle:
        sock.close()


def test_what_is_no_http_is_told_as_everything_else(server):
    with connect(server) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        head, _, answer = ends(sock).partition(b"\r\n\r\n")
    assert b"400" in head and b"application/json" in head
    assert json.loads(answer)["error"]["code"] == "invalid_http"


def test_a_body_that_does_not_go_on_gives_its_place_back(server, ask_raw, monkeypatch):
    monkeypatch.setattr(body, "STALLED", 0.3)
    with connect(server) as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                     b"Content-Length: 100\r\n\r\n{")
        assert b"408" in ends(sock)
    assert server.batcher._places == 0


@pytest.mark.parametrize(("host", "name"), [
    ("127.0.0.1:80", "127.0.0.1"), ("LocalHost", "localhost"), ("[::1]:8000", "::1"), ("[[[127.0.0.1", ""),
    ("::1%evil.com", ""), ("[::1%evil.com]:80", ""), ("a b", ""), ("", "")])
def test_a_host_is_read_strictly(host, name):
    assert _name(host) == name


@pytest.mark.parametrize("header", ["Origin", "Authorization"])
def test_a_header_that_stands_twice_is_refused(server, header):
    with connect(server) as sock:
        sock.sendall((f"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n{header}: a\r\n{header}: b\r\n"
                      "Connection: close\r\n\r\n").encode())
        assert b"stands twice" in ends(sock)


def test_blanks_around_a_key_do_not_count():
    assert Settings(api_key=" secret \n").api_key == "secret"


def test_errors_give_advice_that_clients_can_follow(server, ask_raw, part, recording):
    content = [part(recording(1.0, channels=2))]
    status, _, answer = ask_raw(server.address, "POST", "/v1/chat/completions",
                                {"messages": [{"role": "user", "content": content}]})
    message = json.loads(answer)["error"]["message"]
    assert status == 400 and "2 channels; send one channel" in message and "channel=0" not in message
