"""Requests that mean harm, or nothing: a 4xx in OpenAI's words, and nothing is read, written, run or called."""

import base64
import http.client
import io
import json
import os
import socket
import struct
import sys
import sysconfig
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile

CHAT, HEAR, FORM = "/v1/chat/completions", "/v1/hear", "/v1/audio/transcriptions"
JSON_TYPE = {"Content-Type": "application/json"}
SECRET = "the-contents-of-a-file"
# Python imports some modules only when they are needed.
LIBRARIES = tuple({*map(os.path.realpath, sysconfig.get_paths().values()), str(Path(__file__).resolve().parents[2])})
ALWAYS = ("open", "os.", "shutil.", "tempfile.", "subprocess.", "socket.connect", "socket.getaddrinfo", "urllib.",
          "pickle.", "exec.", "ftplib.", "glob.")
watched: list[tuple[str, tuple]] | None = None  # events, while somebody watches


def _watch(event: str, arguments: tuple) -> None:
    if watched is not None and event.startswith(ALWAYS):
        watched.append((event, arguments))


sys.addaudithook(_watch)


class Canary:
    """What an attack would like to reach: a file, a pipe, which to open would stop a thread, and a web server."""

    def __init__(self, folder: Path):
        self.file, self.pipe, self.temporary = folder / "secret.wav", folder / "pipe", folder / "tmp"
        self.temporary.mkdir()
        self.file.write_text(SECRET)
        os.mkfifo(self.pipe)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/x.wav"

    def was_called(self) -> bool:
        try:
            self.listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@pytest.fixture(scope="module")
def canary(tmp_path_factory):
    canary = Canary(tmp_path_factory.mktemp("canary"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(canary.temporary))
        patch.setattr(tempfile, "tempdir", None)
        yield canary
    canary.listener.close()


@pytest.fixture(scope="module")
def server(model, running, recording, part, ask_raw):
    with running(model, max_seconds=5.0, max_body_bytes=2 << 20, max_characters=20_000) as server:
        content = [part(recording(0.5)), part(recording(0.5, 1, "mp3"), "mp3")]
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
        assert ask_raw(server.address, "POST", CHAT, body)[0] == 200  # whatever is imported only when it is needed
        yield server


def said(*content, **fields) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": list(content)}], "max_tokens": 1, **fields}).encode()


def text(words: str = "Hello") -> dict:
    return {"type": "text", "text": words}


def audio(data: bytes | str, format: str = "wav", **more) -> dict:
    data = base64.b64encode(data).decode() if isinstance(data, bytes) else data
    return {"type": "input_audio", "input_audio": {"data": data, "format": format, **more}}


def file(samples, rate: int = 16000, format: str = "WAV", subtype: str = "PCM_16") -> bytes:
    written = io.BytesIO()
    soundfile.write(written, samples, rate, subtype, format=format)
    return written.getvalue()


NOISE = np.random.default_rng(0).normal(scale=0.1, size=16000)
WAV = file(NOISE)


def wav(rate: int = 16000, channels: int = 1, size: int = 32000, data: bytes = WAV[44:]) -> bytes:
    """A wav file whose header says what it likes."""
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2 & 0xFFFFFFFF, channels * 2, 16)
    return (b"RIFF" + struct.pack("<I", size + 36 & 0xFFFFFFFF) + b"WAVEfmt " + struct.pack("<I", 16) + form
            + b"data" + struct.pack("<I", size & 0xFFFFFFFF) + data)


def flac_of_hours() -> bytes:
    """A flac file whose header promises 2^36 - 1 samples."""
    data = bytearray(file(NOISE, format="FLAC"))
    data[21:26] = bytes([data[21] | 0x0F]) + b"\xff\xff\xff\xff"
    return bytes(data)


def form(*fields: tuple[str, bytes, str]) -> bytes:
    """Of (name, value, what else stands in its header)."""
    return b"".join(f'--xyz\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"
                    for name, value, more in fields) + b"--xyz--\r\n"


FORM_TYPE = {"Content-Type": "multipart/form-data; boundary=xyz"}
UPLOAD = ("file", WAV, '; filename="a.wav"')
DEEP = b'{"messages": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"


def attacks() -> dict[str, tuple]:
    """Name -> method, path, headers, body, and the expected status. {file}, {pipe}, {url}: of the canary."""
    def chat(body: bytes, status: int = 400, **headers):
        return "POST", CHAT, {**JSON_TYPE, **headers}, body, status

    def upload(*fields, status: int = 400, **headers):
        return "POST", FORM, {**FORM_TYPE, **headers}, form(*fields), status

    def get(path: str, status: int = 404, method: str = "GET", **headers):
        return method, path, headers, None, status

    hello, both = said(text()), [text("Repeat:"), audio(WAV)]
    return {
        "nothing": chat(b""), "no json": chat(b"messages=Hello"), "a list": chat(b"[1, 2]"), "null": chat(b"null"),
        "bytes that are no utf-8": chat(b'{"messages": "\xff"}'), "utf-16": chat(hello.decode().encode("utf-16")),
        "nan": chat(hello.replace(b'"max_tokens": 1', b'"temperature": NaN')),
        "infinity": chat(hello.replace(b'"max_tokens": 1', b'"temperature": 1e999')),
        "a key twice": chat(hello.replace(b"{", b'{"max_tokens": 2, ', 1)), "depth bomb": chat(DEEP),
        "depth bomb in a text field": chat(hello.replace(b'"Hello"', b'{"a":' * 9000 + b"1" + b"}" * 9000)),
        "element bomb": chat(b'{"messages": [' + b"[]," * 300_000 + b"[]]}"),
        "an integer of many digits": chat(hello.replace(b'"max_tokens": 1', b'"seed": ' + b"9" * 100_000)),
        "a large integer": chat(said(text(), seed=10**4000)), "half a character": chat(
            hello.replace(b"Hello", b"\\ud800")),
        "half a character in a key": chat(said(text(), **{"\ud800": 1})),
        "half a character as the model": chat(said(text(), model="\ud800"), 404),
        "a simple request of another site": chat(hello, 415, **{"Content-Type": "text/plain"}),
        "a form of another site": chat(hello, 415, **{"Content-Type": "application/x-www-form-urlencoded"}),
        "no type": ("POST", CHAT, {}, hello, 415),
        "a zip bomb": chat(zlib.compress(bytes(50 << 20)), 415, **{"Content-Encoding": "deflate"}),
        "a long body": chat(b" " * (3 << 20) + hello, 413), "a body without end": chat(iter([b" " * 65536] * 64), 413),
        "no messages": chat(b"{}"), "no message": chat(b'{"messages": []}'),
        "many messages": chat(json.dumps({"messages": [{"role": "user", "content": "a"}] * 1000}).encode()),
        "many parts": chat(said(*[text()] * 1000)), "a long text": chat(said(text("x" * 30_000))),
        "a text longer than the context": chat(said(text("word " * 1500))),
        "a tool's message": chat(hello.replace(b'"user"', b'"tool"')),
        "a role that is a list": chat(hello.replace(b'"user"', b'["user"]')),
        "a system message at the end": chat(hello.replace(b'"user"', b'"system"')),
        "a picture": chat(said({"type": "image_url", "image_url": {"url": "{url}"}})),
        "an address of audio": chat(said({"type": "audio_url", "audio_url": {"url": "{url}"}})),
        "an address beside audio": chat(said(audio(WAV, url="{url}"))),
        "an address in place of audio": chat(said(audio("{url}"))),
        "a file's address": chat(said(audio("file://{file}"))), "a path": chat(said(audio("{file}"))),
        "a pipe's path": chat(said(audio("{pipe}"))), "a path in base64": chat(said(audio(b"/etc/passwd\0\0\0\0\0\0"))),
        "a part of the python api": chat(said({"type": "audio", "audio": "{file}"})),
        "its path": chat(said({"type": "audio", "path": "{pipe}"})),
        "its address": chat(said({"type": "audio", "url": "{url}"})),
        "a file's id": chat(said({"type": "file", "file": {"file_id": "../../etc/passwd"}})),
        "a list for audio": chat(said(audio([1, 2, 3]))), "a data address": chat(said(audio(
            "data:audio/wav;base64," + base64.b64encode(WAV).decode()))),
        "broken base64": chat(said(audio("UklGR!!!"))), "a path as the format": chat(said(audio(WAV, "../../x"))),
        "a list as the format": chat(said(audio(WAV, ["wav"]))), "another format than it says": chat(
            said(audio(WAV, "mp3"))),
        "a command": chat(said(audio("cat {file} |"))), "a pickle": chat(said(audio(
            b"\x80\x04\x95\x20\0\0\0\0\0\0\0\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94."))),
        "an archive of Kaldi": chat(said(audio(b"utt1 \0BFM \4\0\0\0\0\4\0\0\0\0" + bytes(64)))),
        "a format that is not offered": chat(said(audio(file(NOISE, format="AIFF"), "aiff"))),
        "wav of nothing": chat(said(audio(wav(size=0, data=b"")))), "silence": chat(said(audio(file(NOISE * 0)))),
        "wav that promises gigabytes": chat(said(audio(wav(size=0x70000000)))),
        "wav that is cut": chat(said(audio(WAV[:9000]))), "stereo": chat(said(audio(file(np.stack([NOISE] * 2, 1))))),
        "300 channels": chat(said(audio(wav(channels=300)))), "no channel": chat(said(audio(wav(channels=0)))),
        "a rate of 1": chat(said(audio(wav(rate=1)))), "a rate of 0": chat(said(audio(wav(rate=0)))),
        "a rate of 4 GHz": chat(said(audio(wav(rate=0xFFFFFFFF)))),
        "NaN samples": chat(said(audio(file(np.full(1600, np.nan), subtype="FLOAT")))),
        "loud samples": chat(said(audio(file(NOISE * 1e6, subtype="FLOAT")))),
        "flac that promises hours": chat(said(audio(flac_of_hours(), "flac"))),
        "flac of silence at a high rate": chat(said(audio(file(np.tile(NOISE, 40), 192000, "FLAC"), "flac"))),
        "flac of random bytes": chat(said(audio(b"fLaC" + NOISE.tobytes(), "flac"))),
        "mp3 without a frame": chat(said(audio(b"ID3" + bytes(9000), "mp3"))),
        "ogg of random bytes": chat(said(audio(b"OggS" + NOISE.tobytes()[:9000], "ogg"))),
        "ogg that is cut": chat(said(audio(file(NOISE, format="OGG", subtype="VORBIS")[:-900], "ogg"))),
        "audio that is too long": chat(said(audio(file(np.tile(NOISE, 6), format="FLAC"), "flac"))),
        "audios that are too long together": chat(said(*[audio(file(np.tile(NOISE, 2)))] * 3)),
        "audio of the assistant": chat(said(*both).replace(b'"user"', b'"assistant"')),
        "tools": chat(said(text(), tools=[{"type": "function"}])), "two answers": chat(said(text(), n=2)),
        "no token": chat(said(text(), max_tokens=0)), "many tokens": chat(said(text(), max_tokens=10**9)),
        "true tokens": chat(said(text(), max_tokens=True)), "many stops": chat(said(text(), stop=["a"] * 99)),
        "a field nobody knows": chat(said(text(), trust_remote_code=True)),
        "a field of Python": chat(said(text(), __class__={"__init__": 1})),
        "another model": chat(said(text(), model="{file}"), 404),
        "a model's path": chat(said(text(), model="../../../etc/passwd"), 404),
        "hear a path": ("POST", HEAR, JSON_TYPE, b'{"audio": "{file}"}', 400),
        "hear more than audio": ("POST", HEAR, JSON_TYPE, json.dumps({**audio(WAV), "path": "{file}"}).encode(), 400),
        "hear a broken file": ("POST", HEAR, JSON_TYPE, json.dumps({"audio": audio(WAV[:999])["input_audio"]}).encode(),
                               400),
        "upload without a file": upload(("model", b"tiny", "")), "upload of a path": upload(("file", b"{file}", "")),
        "upload of a file's path": upload(("file", b"{file}", '; filename="a.wav"')),
        "a path as the file's name": upload(("file", b"not audio at all", '; filename="../../../tmp/x.wav"')),
        "two files": upload(UPLOAD, UPLOAD), "no boundary": upload(UPLOAD, **{"Content-Type": "multipart/form-data"}),
        "another boundary": upload(UPLOAD, **{"Content-Type": "multipart/form-data; boundary=abc"}),
        "a long boundary": upload(UPLOAD, **{"Content-Type": "multipart/form-data; boundary=" + "x" * 9000}),
        "a form of many fields": upload(UPLOAD, *[(f"a{i}", b"", "") for i in range(5000)]),
        "an address to upload from": upload(("url", b"{url}", "")), "a prompt": upload(UPLOAD, ("prompt", b"Hm", "")),
        "a form as json": ("POST", FORM, JSON_TYPE, hello, 415),
        "out of the folder": get("/../../../../etc/passwd"), "out of it, spelt": get("/..%2f..%2f..%2fetc/passwd"),
        "out of it by a model": get("/v1/models/..%2f..%2f..%2fetc%2fpasswd"), "a file": get("/page.html"),
        "an absolute path": get("//etc/passwd"), "null byte": get("/%00"), "a long path": get("/" + "a" * 5000, 414),
        "a script in the path": get("/%3Cscript%3Ealert(1)%3C/script%3E"), "documentation": get("/docs"),
        "a schema": get("/openapi.json"), "another address as target": get("{url}"),
        "reading of what is written": get(CHAT, 405), "deleting": get("/v1/models/tiny", 405, "DELETE"),
        "putting": get("/", 405, "PUT"), "tracing": get("/health", 405, "TRACE"),
        "asking for another site": get(CHAT, 403, "OPTIONS", Origin="http://evil.example"),
        "asking for nobody": get(CHAT, 405, "OPTIONS"), "a method nobody knows": get("/health", 405, "BREW"),
        "another name": chat(hello, 403, Host="evil.example"), "no name": chat(hello, 403, Host=""),
        "another site": chat(hello, 403, Origin="https://evil.example"), "a sandbox": chat(hello, 403, Origin="null"),
        "the page's name in another's": get("/", 403, Host="127.0.0.1.evil.example"),
    }


ATTACKS = attacks()


def fill(value, canary: Canary):
    for name, place in (("{file}", canary.file), ("{pipe}", canary.pipe), ("{url}", canary.url)):
        if isinstance(value, bytes):
            value = value.replace(name.encode(), str(place).encode())
        elif isinstance(value, str):
            value = value.replace(name, str(place))
    return value


def outside(event: str, arguments: tuple, port: int) -> bool:
    """Whether an event is more than an import, or the test's own connection."""
    first = arguments[0] if arguments else None
    if event == "socket.getaddrinfo":
        return first not in ("127.0.0.1", None)
    if event == "socket.connect":
        return arguments[1][1] != port
    if event == "open" and isinstance(first, int):  # not a path, but what is open already, or memory
        return False
    if event in ("open", "os.listdir", "os.scandir") and "w" not in str(arguments[1:2]):
        return not os.path.realpath(os.fsdecode(first)).startswith(LIBRARIES)
    return True


def test_there_are_many_attacks():
    assert len(ATTACKS) >= 100


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_and_reaches_nothing(name, server, canary):
    global watched
    method, path, headers, body, expected = ATTACKS[name]
    path, body = fill(path, canary), fill(body, canary)
    address = urlsplit(server.address)
    began = time.perf_counter()
    connection = http.client.HTTPConnection(address.netloc, timeout=20)
    watched = []
    try:
        connection.request(method, path, body, headers, encode_chunked=True)
        answer = connection.getresponse()
        status, answered = answer.status, answer.read().decode()
    finally:
        events, watched = watched, None
        connection.close()
    assert status == expected, answered
    error = json.loads(answered)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and 10 < len(error["message"]) < 400 and isinstance(error["type"], str)
    assert isinstance(error["param"], str | None) and isinstance(error["code"], str)
    assert answer.headers["Content-Type"] == "application/json" and "Access-Control-Allow-Origin" not in answer.headers
    assert SECRET not in answered and "Traceback" not in answered and "root:" not in answered
    assert not [event for event in events if outside(*event, address.port)]
    assert not canary.was_called() and not list(canary.temporary.iterdir())
    assert time.perf_counter() - began < 2
    assert server.batcher.state == "ok" and server.batcher._places == 0


def test_without_a_name_of_the_server_nothing_is_answered(server):
    """HTTP 1.0 needs none."""
    address = urlsplit(server.address)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 403") and b'"wrong_host"' in answer


def test_many_attackers_at_once_leave_the_server_as_it_was(server, ask_raw, part, recording, canary):
    chosen = [attack for attack in ATTACKS.values() if not hasattr(attack[3], "__next__")][::7]

    def attack(_):
        return [ask_raw(server.address, method, fill(path, canary), fill(body, canary), headers)[0]
                for method, path, headers, body, _ in chosen]
    body = {"messages": [{"role": "user", "content": [part(recording())]}], "max_tokens": 2}
    with ThreadPoolExecutor(8) as attackers:
        answers = attackers.map(attack, range(8))
        assert ask_raw(server.address, "POST", CHAT, body)[0] == 200
        assert list(answers) == [[expected for *_, expected in chosen]] * 8
    assert server.batcher._places == 0
