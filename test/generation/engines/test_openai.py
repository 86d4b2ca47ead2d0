"""The completions engine: forms of answers, what is recorded, and one clear message for everything that goes wrong."""

import logging
import ssl
import subprocess
import threading
import time
from dataclasses import replace

import pytest

from blspkd.config import ContinuationConfig, PromptConfig
from blspkd.errors import BlspkdError, ConfigError, ModelError
from blspkd.generation.continuation import ContinuationWriter
from blspkd.generation.engines import make_engine
from blspkd.generation.engines import server as server_module
from blspkd.generation.engines.engine import Request
from blspkd.generation.engines.openai import FORMS
from blspkd.generation.engines.server import Server, ServerError, check_url

TEXTS = {"utt1": "the farmer sold six bags", "utt2": "a cat", "utt3": "they ate", "utt4": "she reads"}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(server_module, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(server_module, "LONGEST_WAIT", 0.02)


def configured(server, **options) -> ContinuationConfig:
    return ContinuationConfig(max_new_tokens=12, do_sample=False, prompt=PromptConfig("Continue:"), engine="openai",
                              engine_options={"url": server.url, "parallel": 2, "retries": 2, **options})


def identity(llm, server, **options) -> dict:
    return make_engine(configured(server, **options)).identity(llm)


def failure(llm, server, **options) -> str:
    """The message that ends `write`, on one line."""
    writer = ContinuationWriter(llm, configured(server, **options))
    with pytest.raises(BlspkdError) as raised:
        writer.write(TEXTS)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# How token ids come back


@pytest.mark.parametrize("form", ["token_ids", "logprobs", "text", "strict"])
def test_every_form_of_answer_gives_the_same_texts(tiny_llm, server, form, caplog):
    server.form = form
    texts = {f"utt{number}": "she reads a book on monday"[:number] for number in range(2, 26)}
    config = ContinuationConfig(max_new_tokens=3, do_sample=False, prompt=PromptConfig("Continue:"))
    expected = ContinuationWriter(tiny_llm, config).write(texts)
    with caplog.at_level(logging.WARNING):
        writer = ContinuationWriter(tiny_llm, replace(configured(server), max_new_tokens=3))
        written = writer.write(texts)
    assert writer.engine.said["ids"] == {"strict": "text of a strict server"}.get(form, form)
    if form in ("token_ids", "logprobs"):
        assert written == expected and "tells no token ids" not in caplog.text
    else:
        assert caplog.text.count("tells no token ids: its texts are tokenised again") == 1
        shown = {utt_id: one.text for utt_id, one in expected.items() if one.reason is None}
        assert len(shown) > 4 and {utt_id: written[utt_id].text for utt_id in shown} == shown


def test_what_is_asked_says_all_that_decides_and_nothing_that_a_strict_server_refuses(tiny_llm, server):
    config = configured(server)
    config.do_sample, config.temperature, config.top_p = True, 0.7, 0.9
    writer = ContinuationWriter(tiny_llm, config)
    server.seen.clear()
    writer.write(TEXTS)
    bodies = [body for _, _, body in server.seen]
    assert len({body["seed"] for body in bodies}) == len(TEXTS) and all(0 <= body["seed"] < 2**31 for body in bodies)
    for body in bodies:
        assert all(type(token) is int for token in body["prompt"])
        assert {name: body[name] for name in ("model", "n", "stream", "max_tokens", "temperature", "top_p", "top_k",
                                              "stop_token_ids", "repetition_penalty", "return_token_ids")} == {
            "model": "tiny", "n": 1, "stream": False, "max_tokens": 12, "temperature": 0.7, "top_p": 0.9, "top_k": -1,
            "stop_token_ids": writer.text.ends, "repetition_penalty": 1.0, "return_token_ids": True}
    assert not FORMS["text of a strict server"]


def test_as_many_requests_as_asked_for_are_under_way(tiny_llm, server):
    writer = ContinuationWriter(tiny_llm, configured(server, parallel=3))
    server.faults = ["slow"] * 6
    writer.write(TEXTS | {f"more{number}": "a cat" for number in range(4)})
    assert server.most_under_way == 3


# What is recorded


def test_what_the_server_says_of_itself_is_recorded_and_no_secret(tiny_llm, server, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    options = {"api_key_variable": "SOME_KEY"}
    config = configured(server, **options)
    recorded = make_engine(config).recorded(vars(config), tiny_llm)
    assert recorded["engine"] == {"name": "openai", "version": "1.2.3", "model": "tiny", "owned_by": "us",
                                  "system_fingerprint": "abc", "ids": "token_ids"}
    assert "engine_options" not in recorded and "dtype" not in recorded and "sk-secret" not in str(recorded)
    assert {headers.get("Authorization") for _, headers, _ in server.seen} == {"Bearer sk-secret"}


def test_a_server_that_says_nothing_of_itself_is_unknown(tiny_llm, server):
    server.version, server.models, server.system_fingerprint = None, None, None
    assert identity(tiny_llm, server, model="tiny") == {
        "version": "unknown", "model": "tiny", "owned_by": "unknown", "system_fingerprint": "unknown",
        "ids": "token_ids"}
    assert not any("Authorization" in headers for _, headers, _ in server.seen)
    with pytest.raises(ConfigError, match="engine_options.model: .* has no list of models; name one"):
        identity(tiny_llm, server)


def test_a_model_is_chosen_where_it_is_the_only_one_and_else_named(tiny_llm, server):
    server.models = ["tiny", "other"]
    assert identity(tiny_llm, server, model="other")["model"] == "other"
    with pytest.raises(ConfigError, match="engine_options.model: .* has tiny, other; name one"):
        identity(tiny_llm, server)
    with pytest.raises(ConfigError, match="engine_options.model: .* has no small, but tiny, other"):
        identity(tiny_llm, server, model="small")


@pytest.mark.parametrize("value", [None, "", " ", "nön-ascii", "two\nlines"])
def test_a_key_that_is_not_there_or_cannot_be_sent(server, monkeypatch, value):
    monkeypatch.delenv("SOME_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(ConfigError, match="the environment has no SOME_KEY with a key in it; export one"):
        make_engine(configured(server, api_key_variable="SOME_KEY"))


def test_a_key_in_the_place_of_the_variables_name_is_not_shown(server):
    with pytest.raises(ConfigError, match="no variable of this name"):
        make_engine(configured(server, api_key_variable="sk-0123456789"))


# Faults


@pytest.mark.parametrize("fault", [429, 500, 503, "drop", "cut"])
def test_what_passes_is_tried_again(tiny_llm, server, fault):
    writer = ContinuationWriter(tiny_llm, configured(server))
    expected = writer.write(TEXTS)
    server.faults = [fault, fault]
    server.seen.clear()
    assert writer.write(TEXTS) == expected
    assert len(server.seen) == len(TEXTS) + 2


@pytest.mark.parametrize("fault, message", [
    (500, r"/v1/completions: HTTP 500: status 500 it is, after 3 tries; see whether the server runs"),
    (429, r"HTTP 429: status 429 it is, after 3 tries"),
    ("drop", r"/v1/completions: RemoteDisconnected: .*, after 3 tries; see whether the server runs, and start"),
    ("cut", r"HTTPException: the connection ended within the answer.*, after 3 tries"),
    (404, r"/v1/completions: HTTP 404: status 404 it is; is this the address of a server with OpenAI's API\?"),
    (400, r"HTTP 400: status 400 it is; see what the message says"),
    ("garbage", r"/v1/completions: the answer is no JSON object: <html>hello; is this the address"),
    ("redirect", r"HTTP 307: nothing; it redirects to elsewhere.test/v1; name that, if it is meant"),
    ("echo of the key", r"HTTP 401: wrong key Bearer \*\*\*; name the environment variable that holds the key"),
])
def test_a_fault_that_stays_is_one_clear_message(tiny_llm, server, monkeypatch, fault, message):
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    writer = ContinuationWriter(tiny_llm, configured(server, api_key_variable="SOME_KEY"))
    server.always = fault
    with pytest.raises(ServerError, match=message) as raised:
        writer.write(TEXTS)
    assert server.url in str(raised.value) and "sk-secret" not in str(raised.value)


@pytest.mark.parametrize("models", [5, "tiny", {"tiny": 1}, [{"id": 5}, {"id": "tiny"}], [{"id": ["tiny"]}]], ids=str)
def test_a_list_of_models_that_is_none_is_as_good_as_none(tiny_llm, server, monkeypatch, models):
    monkeypatch.setattr(server.RequestHandlerClass, "do_GET", lambda handler: handler.tell({"data": models}))
    assert identity(tiny_llm, server, model="tiny")["model"] == "tiny"


CHOICE = {"index": 0, "text": " six", "finish_reason": "stop"}


@pytest.mark.parametrize("form, answer, message", [
    ("logprobs", {"choices": [CHOICE | {"logprobs": "none"}]}, "an answer has no token ids, though others had"),
    ("logprobs", {"choices": [CHOICE | {"logprobs": [1]}]}, "an answer has no token ids, though others had"),
    ("token_ids", {"choices": [CHOICE | {"token_ids": [5] * 13}]}, "utterance utt.: it wrote 13 tokens, though max"),
    ("token_ids", {"choices": [CHOICE | {"token_ids": [-1]}]}, "it wrote token -1 of a vocabulary of 400"),
    ("token_ids", {"choices": [CHOICE, CHOICE]}, r"the answer has no choices\[0\].text"),
    ("token_ids", None, "the answer is no JSON object: "),  # 100,000 lists in one another
])
def test_answers_that_make_no_sense_are_one_clear_message(tiny_llm, server, monkeypatch, form, answer, message):
    server.form = form
    writer = ContinuationWriter(tiny_llm, configured(server))
    told = {**answer, "system_fingerprint": "abc"} if answer else b"[" * 100_000
    monkeypatch.setattr(server.RequestHandlerClass, "complete", lambda handler, body: handler.tell(told))
    with pytest.raises(ModelError, match=message):
        writer.write(TEXTS)


def test_a_server_that_hangs_is_left_in_time(tiny_llm, server):
    writer = ContinuationWriter(tiny_llm, configured(server, timeout_seconds=0.2, retries=1))
    server.always = "hang"
    start = time.monotonic()
    with pytest.raises(ServerError, match=r"no answer within 0.2 s, after 2 tries"):
        writer.write(TEXTS)
    assert time.monotonic() - start < 5


def test_one_refusal_ends_what_else_is_under_way(tiny_llm, server):
    writer = ContinuationWriter(tiny_llm, configured(server, parallel=4))
    server.faults = ["hang", "hang", 400]
    before, deadline = set(threading.enumerate()), time.monotonic() + 60  # half as long as the others hang
    with pytest.raises(ServerError, match="HTTP 400"):
        writer.write(TEXTS)
    while any(thread.name.startswith("ThreadPoolExecutor") for thread in set(threading.enumerate()) - before):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_that_is_not_there(tiny_llm):
    with pytest.raises(ServerError, match=r"http://127.0.0.1:9/v1/models: ConnectionRefusedError: .* after 1 tries"):
        make_engine(ContinuationConfig(engine="openai", engine_options={"url": "http://127.0.0.1:9", "retries": 0})
                    ).identity(tiny_llm)


# Another model


def test_tokens_out_of_the_vocabulary_are_another_model(tiny_llm, server):
    server.shift = 10_000
    assert "is not the LLM" in (message := failure(tiny_llm, server)) and "of a vocabulary of 400" in message


@pytest.mark.parametrize("form", ["token_ids", "text"])
def test_another_tokenizer_is_another_model(tiny_llm, server, form, monkeypatch):
    """It is read back: as token ids where the server tells those of prompts, else by `echo`."""
    server.form = form
    decode, read = type(server.tokenizer).decode, type(server.tokenizer).__call__
    kind = type("Other", (), {
        "decode": lambda self, ids, **options: decode(tokenizer, [399 - i for i in ids], **options),
        "__call__": lambda self, text: type("Read", (), {"input_ids": read(tokenizer, text).input_ids[::-1]})(),
        "eos_token_id": server.tokenizer.eos_token_id})
    tokenizer = server.tokenizer
    monkeypatch.setattr(server, "tokenizer", kind())
    with pytest.raises(ModelError, match=r"its model 'tiny' is not the LLM .*: it reads .*; serve that LLM, or name"):
        identity(tiny_llm, server)


def test_a_server_without_echo_cannot_be_checked_which_is_said(tiny_llm, server, caplog):
    server.form, server.knows_echo = "text", False
    assert identity(tiny_llm, server)["ids"] == "text"
    assert "whether it has the tokenizer of" in caplog.text


def test_a_server_that_changes_under_way_is_an_error(tiny_llm, server):
    writer = ContinuationWriter(tiny_llm, configured(server))
    server.system_fingerprint = "xyz"
    with pytest.raises(ServerError, match=r"is another server .*\(system_fingerprint xyz, it was abc\); start"):
        writer.write(TEXTS)


def test_an_end_for_another_reason_names_the_utterance(tiny_llm, server, monkeypatch):
    writer = ContinuationWriter(tiny_llm, configured(server))
    monkeypatch.setattr(server, "generate", lambda prompt, body: ([5], "content_filter"))
    with pytest.raises(ServerError, match="utterance utt.: finish_reason is 'content_filter', not stop or length"):
        writer.write(TEXTS)


def test_a_refused_prompt_names_the_utterance(tiny_llm, server):
    writer = ContinuationWriter(tiny_llm, configured(server))
    with pytest.raises(ServerError, match="utterance bad: .*HTTP 400: token 999 is out of vocabulary"):
        writer.engine.write([Request("bad", [999], [], 0)])


# Addresses and certificates


@pytest.mark.parametrize("url, kept", [
    ("http://host:8000", "http://host:8000"), ("http://host:80/", "http://host:80"),
    ("http://host/v1", "http://host"), ("https://host/api/v1/", "https://host/api"), ("http://[::1]:8000/v1", "http://[::1]:8000")])
def test_addresses(url, kept):
    assert check_url(url) == kept


@pytest.mark.parametrize("url", ["", "host:8000", "ftp://host", "http://", "http://host:port", "file:///etc/passwd",
                                 "http://user:secret@host", "http://host/?key=secret", "http://host/#secret",
                                 "user:secret@host"])
def test_addresses_that_cannot_be_show_no_secret(url):
    with pytest.raises(ConfigError, match=r"^engine_options.url: ") as raised:
        check_url(url)
    assert "secret" not in str(raised.value).replace("#secret", "")


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(server, tmp_path, tiny_llm):
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
               "-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    from http.server import BaseHTTPRequestHandler, HTTPServer

    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as secured:
        secured.socket = context.wrap_socket(secured.socket, server_side=True)
        secured.handle_error = lambda *_: None
        threading.Thread(target=secured.serve_forever, args=(0.05,), daemon=True).start()
        client = Server(f"https://127.0.0.1:{secured.server_address[1]}", "sk-secret", 5.0, retries=3)
        with pytest.raises(ServerError, match="its certificate is not accepted .*self.signed"):
            client.ask("GET", "/v1/models")
        secured.shutdown()
