"""What `serve.py` measures: a server in a process of its own, asked by OpenAI's client."""

import asyncio
import base64
import io
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openai
import psutil
import soundfile
import torch

from blspkd.audio.samples import load
from blspkd.models.chat import SpeechLLM
from blspkd.serve.server import Server
from blspkd.serve.settings import Settings

RATE = 16000
SECONDS = 5.0  # of made-up recordings, and of those whose first token is waited for
TURNS = 15
PAUSE = 2.0  # seconds
KEPT = 100  # requests at the beginning and at the end whose memory is compared


@dataclass
class Row:
    """One figure, as it stands in the JSON file."""

    what: str
    value: float
    unit: str
    bar: str = ""  # what it has to be


class Speech:
    """Recordings, each asked for only once: `take` changes them by a little noise."""

    def __init__(self, files: Sequence[Path]):
        self.waveforms = [load(str(file), RATE) for file in files] or [_made_up(seed) for seed in range(10)]
        self.taken = 0

    def take(self, seconds: float | None = None) -> bytes:
        """A wav file; seconds: repeated or cut to this length."""
        waveform = self.waveforms[self.taken % len(self.waveforms)]
        if seconds is not None:
            waveform = np.resize(waveform, int(seconds * RATE))
        noise = np.random.default_rng(self.taken).normal(scale=1e-4, size=len(waveform))
        self.taken += 1
        file = io.BytesIO()
        soundfile.write(file, waveform + noise, RATE, "PCM_16", format="WAV")
        return file.getvalue()


class Asker:
    """The same question about a recording, to the server and to the model."""

    def __init__(self, address: str, model: SpeechLLM, instruction: str, max_tokens: int):
        self.model, self.instruction, self.max_tokens = model, instruction, max_tokens
        self.options = {"base_url": f"{address}/v1", "api_key": "none", "max_retries": 0, "timeout": 600.0}
        self.client = openai.OpenAI(**self.options)

    def body(self, data: bytes) -> dict:
        audio = {"data": base64.b64encode(data).decode(), "format": "wav"}
        return {"model": "bench", "max_tokens": self.max_tokens, "messages": [{"role": "user", "content": [
            {"type": "text", "text": self.instruction}, {"type": "input_audio", "input_audio": audio}]}]}

    def messages(self, data: bytes) -> list[dict]:
        return [{"role": "user", "content": [{"type": "text", "text": self.instruction},
                                             {"type": "audio", "audio": data}]}]

    def by_server(self, data: bytes) -> str:
        return self.client.chat.completions.create(**self.body(data)).choices[0].message.content

    def by_python(self, data: bytes) -> str:
        return self.model.chat(self.messages(data), max_new_tokens=self.max_tokens).text

    def at_once(self, recordings: Sequence[bytes]) -> list[str]:
        async def ask() -> list:
            async with openai.AsyncOpenAI(**self.options) as client:
                return await asyncio.gather(*[client.chat.completions.create(**self.body(data))
                                              for data in recordings])
        return [answer.choices[0].message.content for answer in asyncio.run(ask())]

    def first_piece(self, data: bytes) -> float:
        """Seconds until the first piece of text of a stream."""
        body = self.body(data)
        began = time.perf_counter()
        with self.client.chat.completions.create(**body, stream=True) as stream:
            next(chunk for chunk in stream if chunk.choices[0].delta.content)
            return time.perf_counter() - began

    def listening(self, data: bytes) -> float:
        """Seconds of listening alone."""
        return _seconds(lambda: self.model.prepare([self.messages(data)]))


def run(name: str, files: Sequence[Path], instruction: str, requests: int, at_once: int, max_tokens: int, threads: int
        ) -> Iterator[Row]:
    """Each figure as soon as it is known."""
    torch.set_num_threads(threads)
    model, speech = SpeechLLM.from_pretrained(name, device="cpu"), Speech(files)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(name, threads, theirs), daemon=True)
    process.start()
    try:
        asker = Asker(ours.recv(), model, instruction, max_tokens)
        asker.at_once([speech.take() for _ in range(4)])  # warm up
        yield from _throughput(asker, speech, at_once)
        yield from _overhead(asker, speech)
        yield from _first_piece(asker, speech)
        yield from _memory(asker, speech, requests, at_once, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.join()


def _throughput(asker: Asker, speech: Speech, at_once: int) -> Iterator[Row]:
    recordings = [speech.take() for _ in range(at_once)]
    alone = _seconds(lambda: [asker.by_server(data) for data in recordings])
    recordings = [speech.take() for _ in range(at_once)]
    replies: list[str] = []
    together = _seconds(lambda: replies.extend(asker.at_once(recordings)))
    same = sum(reply == asker.by_python(data) for reply, data in zip(replies, recordings, strict=True))
    yield Row(f"{at_once} requests, one after another", at_once / alone, "requests/s")
    yield Row(f"{at_once} requests at once", at_once / together, "requests/s")
    yield Row("at once / one after another", alone / together, "times", ">= 3")
    yield Row("replies that equal the Python API's", same, f"of {at_once}", "all")


def _overhead(asker: Asker, speech: Speech) -> Iterator[Row]:
    """In turns, each with a recording that neither has heard."""
    server, python = [], []
    for _ in range(TURNS):
        data = speech.take()
        python.append(_seconds(lambda data=data: asker.by_python(data)))
        server.append(_seconds(lambda data=data: asker.by_server(data)))
    added = statistics.median(one - other for one, other in zip(server, python, strict=True))
    yield Row("one request, by the Python API", 1000 * statistics.median(python), "ms")
    yield Row("one request, by the server", 1000 * statistics.median(server), "ms")
    yield Row("added by the server", 1000 * added, "ms", f"< {10 + 50 * statistics.median(python):.1f} (10 ms + 5 %)")


def _first_piece(asker: Asker, speech: Speech) -> Iterator[Row]:
    listening, first = [], []
    for _ in range(TURNS):
        data = speech.take(SECONDS)
        listening.append(asker.listening(data))
        first.append(asker.first_piece(data))
    yield Row(f"listening to {SECONDS:g} s of speech, by the Python API", 1000 * statistics.median(listening), "ms")
    yield Row(f"first piece of text after {SECONDS:g} s of speech", 1000 * statistics.median(first), "ms")
    yield Row("first piece / listening", statistics.median(first) / statistics.median(listening), "times", "< 2")


def _memory(asker: Asker, speech: Speech, requests: int, at_once: int, process: psutil.Process) -> Iterator[Row]:
    """By turns at once and one after another; after each turn there is a pause in which the server comes to rest.

    The C library has taken what it takes after some batches, which therefore come before.
    """
    for _ in range(3):
        asker.at_once([speech.take() for _ in range(at_once)])
    mib = []
    while len(mib) * at_once < requests:
        recordings = [speech.take() for _ in range(at_once)]
        if len(mib) % 2:
            for data in recordings:
                asker.by_server(data)
        else:
            asker.at_once(recordings)
        time.sleep(PAUSE)
        mib.append(process.memory_info().rss / (1 << 20))
    turns = max(1, KEPT // at_once)
    first, last = statistics.mean(mib[:turns]), statistics.mean(mib[-turns:])
    yield Row(f"memory of the server, first {KEPT} of {requests} requests", first, "MiB")
    yield Row(f"the same, last {KEPT}", last, "MiB")
    yield Row("last / first", last / first, "times", "< 1.03")


def _serve(name: str, threads: int, pipe) -> None:
    torch.set_num_threads(threads)
    server = Server(SpeechLLM.from_pretrained(name, device="cpu"),
                    Settings(port=0, api_key="", model_name="bench", timeout_seconds=600.0))
    pipe.send(server.address)
    server.run()


def _seconds(run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _made_up(seed: int) -> np.ndarray:
    """A voice that says nothing: float32 [SECONDS * RATE]."""
    generator = np.random.default_rng(seed)
    times = np.arange(int(SECONDS * RATE)) / RATE
    tones = sum(np.sin(2 * np.pi * pitch * times) for pitch in generator.uniform(90, 2500, 8))
    return (0.03 * tones * (1 + np.sin(2 * np.pi * 3 * times))).astype(np.float32)
