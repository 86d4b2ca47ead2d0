"""What each address of the server answers."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from blspkd.audio.chunks import chunks
from blspkd.audio.handed import SILENCE, read_audio
from blspkd.data.conversation import ask
from blspkd.errors import BlspkdError
from blspkd.models.chat import REPEAT, ReadConversation, SpeechLLM
from blspkd.models.reply import ChatOptions
from blspkd.serve.api_error import GONE, ApiError, api_error, json_response
from blspkd.serve.batcher import READY, Batcher
from blspkd.serve.body import read_form, read_json
from blspkd.serve.completion import Completion, error_event
from blspkd.serve.jobs import CallJob, ChatJob, Job
from blspkd.serve.metrics import CONTENT_TYPE, Metrics
from blspkd.serve.recordings import check_decoded_size
from blspkd.serve.schema import check_model, read_chat, read_hear, read_transcription, recordings_of
from blspkd.serve.settings import Settings
from blspkd.serve.waiting import first_of

CHUNK = 30.0  # seconds of a recording that are transcribed at a time, as by `SpeechLLM.transcribe`
READERS = 2  # threads that decode audio
logger = logging.getLogger(__name__)
T = TypeVar("T")


class EventStream(StreamingResponse):
    """Server-sent events; `held` is let go at their end, however they end: also when the client goes away."""

    def __init__(self, events: AsyncIterator[str], held: ExitStack):
        super().__init__(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self.held = held

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        with self.held:
            await super().__call__(scope, receive, send)


class Endpoints:
    """All of them raise ApiError for what cannot be answered."""

    def __init__(self, batcher: Batcher, metrics: Metrics, settings: Settings):
        self.batcher, self.metrics, self.settings = batcher, metrics, settings
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._model_object = {"id": settings.model_name, "object": "model", "created": int(time.time()),
                              "owned_by": "blspkd"}

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions"""
        with ExitStack() as held:
            model = held.enter_context(self.batcher.place())
            job, completion = await self._chat_job(request, model)
            deadline = self._submit([job], held)
            first = await self._next(job, request, deadline)  # before the head is sent, so that an error has its status
            if not job.wants_pieces:
                return json_response(completion.whole(first))
            return EventStream(self._events(job, completion, first, deadline), held.pop_all())

    async def transcribe(self, request: Request) -> Response:
        """POST /v1/audio/transcriptions"""
        with ExitStack() as held:
            model = held.enter_context(self.batcher.place())
            jobs, seconds, response_format = await self._transcription_jobs(request, model)
            deadline = self._submit(jobs, held)
            replies = [await self._next(job, request, deadline) for job in jobs]
        text = " ".join(reply.text for reply in replies if reply.text)
        if response_format == "text":
            return Response(f"{text}\n", media_type="text/plain; charset=utf-8")
        usage = {"type": "duration", "seconds": int(np.ceil(seconds))}
        if response_format == "verbose_json":
            return json_response({"task": "transcribe", "language": "unknown", "duration": seconds, "text": text,
                                  "usage": usage})
        return json_response({"text": text, "usage": usage})

    async def hear(self, request: Request) -> Response:
        """POST /v1/hear: what the adapter makes of a recording."""
        with ExitStack() as held:
            model = held.enter_context(self.batcher.place())
            waveform = await self._waveform(read_hear(await read_json(request, self.settings)), "audio", model)
            job = CallJob(lambda: model.hear(waveform, rate=model.sampling_rate), len(waveform) / model.sampling_rate)
            return json_response(asdict(await self._next(job, request, self._submit([job], held))))

    async def models(self, request: Request) -> Response:
        """GET /v1/models"""
        return json_response({"object": "list", "data": [self._model_object]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{name}"""
        check_model(request.path_params["name"], self.settings)
        return json_response(self._model_object)

    async def health(self, request: Request) -> Response:
        """GET /health"""
        state = self.batcher.state
        return json_response({"status": state, "model": self.settings.model_name}, 200 if state == READY else 503)

    async def figures(self, request: Request) -> Response:
        """GET /metrics"""
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _chat_job(self, request: Request, model: SpeechLLM) -> tuple[ChatJob, Completion]:
        asked = read_chat(await read_json(request, self.settings), self.settings)
        began = time.perf_counter()

        def read() -> ReadConversation:
            for name, recording in recordings_of(asked.messages):
                check_decoded_size(recording, name, self.settings.max_seconds)
            return model.read(asked.messages, None, self.settings.max_seconds)

        conversation = await self._read(read)
        seconds = _seconds(conversation, model)
        self.metrics.audio_seconds.inc(seconds)
        return (ChatJob(conversation, asked.options, began, asked.stream, seconds),
                Completion(self.settings.model_name, asked.include_usage))

    async def _transcription_jobs(self, request: Request, model: SpeechLLM) -> tuple[list[ChatJob], float, str]:
        """One job for each piece of the recording, its seconds, and the form of the answer."""
        asked = read_transcription(await read_form(request, self.settings), self.settings)
        began, rate = time.perf_counter(), model.sampling_rate
        waveform = await self._waveform(asked.recording, "file", model)

        def read() -> list[ReadConversation]:
            config = model.listener.prompt.config
            return [model.read([ask(config, REPEAT, [{"type": "audio", "audio": piece, "rate": rate}])])
                    for piece in chunks(waveform, rate, CHUNK, rate=rate) if np.ptp(piece) >= SILENCE]

        conversations = await self._read(read)
        options = ChatOptions(max_new_tokens=self.settings.default_new_tokens)
        return ([ChatJob(conversation, options, began, seconds=_seconds(conversation, model))
                 for conversation in conversations], len(waveform) / rate, asked.response_format)

    async def _waveform(self, recording: bytes, name: str, model: SpeechLLM) -> np.ndarray:
        def read() -> np.ndarray:
            check_decoded_size(recording, name, self.settings.max_seconds)
            return read_audio(recording, model.sampling_rate, name=name, max_seconds=self.settings.max_seconds)

        waveform = await self._read(read)
        self.metrics.audio_seconds.inc(len(waveform) / model.sampling_rate)
        return waveform

    async def _read(self, read: Callable[[], T]) -> T:
        """Decode audio, beside the model's work and the event loop's."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, read)
        except Exception as error:
            if not isinstance(error, BlspkdError | ApiError):
                logger.exception("a request could not be read")
            raise api_error(error) from None

    def _submit(self, jobs: list[Job], held: ExitStack) -> float:
        """Submit jobs that are cancelled when `held` is let go; returns when their answers have to be there."""
        for job in jobs:
            held.callback(job.cancel)
            job.request = held
            self.batcher.submit(job)
        return time.monotonic() + self.settings.timeout_seconds

    async def _next(self, job: Job, request: Request, deadline: float) -> Any:
        """The next event of `job`; raises ApiError also where it is too late, or where nobody waits any more."""
        return await first_of(job.next(), _gone(request), seconds=deadline - time.monotonic(), late=self._too_late())

    async def _events(self, job: ChatJob, completion: Completion, event: Any, deadline: float) -> AsyncIterator[str]:
        """The reply as server-sent events; event: its first one."""
        yield completion.opening()
        try:
            while isinstance(event, str):
                yield completion.piece(event)
                event = await first_of(job.next(), seconds=deadline - time.monotonic(), late=self._too_late())
        except ApiError as error:
            yield error_event(error)
        else:
            yield completion.closing(event)

    def _too_late(self) -> ApiError:
        return ApiError(504, f"there was no answer within {self.settings.timeout_seconds:g} seconds; ask for less, or "
                        "again later", code="timeout")


async def _gone(request: Request) -> None:
    """Raises ApiError when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    raise ApiError(GONE, "the client has gone")


def _seconds(conversation: ReadConversation, model: SpeechLLM) -> float:
    """Of its audio."""
    return sum(map(len, conversation.waveforms)) / model.sampling_rate
