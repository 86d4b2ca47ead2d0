"""Many at once, too many, too slow, gone: the server goes on."""

import asyncio
import http.client
import json
import time
from urllib.parse import urlsplit

import openai
import pytest


@pytest.fixture(scope="module")
def server(model, running):
    with running(model) as server:
        yield server


def reply(answer) -> tuple[str, int, int]:
    return answer.choices[0].message.content, answer.usage.prompt_tokens, answer.usage.completion_tokens


def counted(address, ask_raw, name: str) -> float:
    lines = ask_raw(address, "GET", "/metrics")[2].decode().splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} "))


def test_fifty_at_once_get_what_each_alone_gets(server, model, recording, part, ask_raw):
    recordings = [recording(0.5 + 0.02 * number, number) for number in range(50)]
    expected = [model.chat([{"role": "user", "content": [{"type": "audio", "audio": data},
                                                         {"type": "text", "text": "Continue:"}]}],
                           max_new_tokens=4 + number % 9) for number, data in enumerate(recordings)]

    async def run():
        async with openai.AsyncOpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*[client.chat.completions.create(
                model="tiny", max_tokens=4 + number % 9, messages=[
                    {"role": "user", "content": [part(data), {"type": "text", "text": "Continue:"}]}])
                for number, data in enumerate(recordings)])
    answers = asyncio.run(run())
    assert [reply(answer) for answer in answers] == [
        (item.text, item.prompt_tokens, item.completion_tokens) for item in expected]
    assert counted(server.address, ask_raw, "blspkd_batch_size_count") <= 25  # most were answered together


def test_more_than_may_wait_are_sent_away(model, running, slow):
    slow(0.02)

    async def run(address):
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*[client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "a book"}], max_tokens=8) for _ in range(20)],
                return_exceptions=True)
    with running(model, max_batch=2, max_queue=3) as server:
        answers = asyncio.run(run(server.address))
        refused = [answer for answer in answers if isinstance(answer, openai.RateLimitError)]
        served = [answer for answer in answers if not isinstance(answer, Exception)]
        assert len(refused) + len(served) == 20 and len(refused) >= 10 and len(served) >= 3
        assert refused[0].code == "queue_full" and refused[0].response.headers["retry-after"] == "1"
        assert len({reply(answer) for answer in served}) == 1


def test_what_takes_too_long_is_cut_off(model, running, slow, ask_raw):
    slow(0.05)
    body = {"messages": [{"role": "user", "content": "a book"}], "max_tokens": 400}
    with running(model, timeout_seconds=0.4) as server:
        began = time.perf_counter()
        status, _, answer = ask_raw(server.address, "POST", "/v1/chat/completions", body)
        assert status == 504 and json.loads(answer)["error"]["code"] == "timeout"
        _, _, answer = ask_raw(server.address, "POST", "/v1/chat/completions", {**body, "stream": True})
        assert json.loads(answer.decode().split("\n\n")[-2][6:])["error"]["code"] == "timeout"
        assert b"[DONE]" not in answer
        with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as client:
            with pytest.raises(openai.APIError, match="0.4 seconds"):
                list(client.chat.completions.create(model="tiny", messages=body["messages"], max_tokens=400,
                                                    stream=True))
        assert time.perf_counter() - began < 3
        time.sleep(0.2)
        assert not server.batcher._running


def test_a_body_that_does_not_come_is_not_waited_for(model, running):
    with running(model, timeout_seconds=0.3) as server:
        connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=10)
        connection.putrequest("POST", "/v1/chat/completions")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b'{"messages"')
        answer = connection.getresponse()
        assert answer.status == 408 and json.loads(answer.read())["error"]["code"] == "request_timeout"
        connection.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_the_model_within_a_step(server, slow, stream):
    slow(0.1)
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=10)
    body = {"messages": [{"role": "user", "content": "a book"}], "max_tokens": 400, "stream": stream}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    if stream:
        connection.getresponse().readline()
    while not server.batcher._running:
        time.sleep(0.005)
    connection.close()
    gone = time.perf_counter()
    while server.batcher._running:
        time.sleep(0.005)
    assert time.perf_counter() - gone < 0.4
    assert server.batcher._places == 0


def test_nothing_is_left_behind(server, model, ask_raw, monkeypatch):
    """A batch that fails, and those that follow."""
    body = {"messages": [{"role": "user", "content": "a book"}], "max_tokens": 2}

    def broken(*arguments, **options):
        raise RuntimeError("a secret of the server's")
    with monkeypatch.context() as patch:
        patch.setattr(model, "generate", broken)
        status, _, answer = ask_raw(server.address, "POST", "/v1/chat/completions", body)
        assert status == 500 and b"secret" not in answer
        assert json.loads(answer)["error"] == {"message": json.loads(answer)["error"]["message"],
                                               "type": "server_error", "param": None, "code": "internal_error"}
    assert ask_raw(server.address, "POST", "/v1/chat/completions", body)[0] == 200
    until = time.perf_counter() + 5
    while server.batcher._running and time.perf_counter() < until:  # the answer leaves before the batch is put away
        time.sleep(0.005)
    assert server.batcher._places == 0 and not server.batcher._waiting and not server.batcher._running
