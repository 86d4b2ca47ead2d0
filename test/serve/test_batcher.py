"""The model's thread: what it takes together, whose failure is whose, and when it stops."""

import asyncio
import threading
import time
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from blspkd.errors import AudioError
from blspkd.models.reply import ChatOptions, Reply
from blspkd.serve.api_error import ApiError
from blspkd.serve.batcher import Batcher
from blspkd.serve.jobs import CallJob, ChatJob
from blspkd.serve.metrics import Metrics
from blspkd.serve.settings import Settings

STEP = 0.005  # seconds


class FakeModel:
    """Replies with as many letters as a conversation says; what it says may also be an exception."""

    def __init__(self):
        self.batches, self.steps = [], []
        self.go = threading.Event()
        self.go.set()

    def listen(self, conversations):
        self.go.wait()
        for conversation in conversations:
            if isinstance(conversation, Exception):
                raise conversation
        return [SimpleNamespace(letters=conversation) for conversation in conversations]

    def generate(self, turns, options, on_text, cancelled, on_reply):
        self.batches.append([turn.letters for turn in turns])
        if "break" in self.batches[-1]:
            raise RuntimeError("broken")
        texts, reasons = [""] * len(turns), [""] * len(turns)
        while not all(reasons):
            time.sleep(STEP)
            self.steps.append(time.perf_counter())
            for row in [row for row, reason in enumerate(reasons) if not reason]:
                texts[row] += "x"
                if cancelled(row):
                    reasons[row] = "cancelled"
                else:
                    on_text(row, "x")
                    reasons[row] = "stop" if len(texts[row]) >= turns[row].letters else ""
                if reasons[row]:
                    on_reply(row, Reply(texts[row], [5] * len(texts[row]), reasons[row], 3, 2))


@pytest.fixture
def model():
    return FakeModel()


@pytest.fixture
def batcher(model):
    batcher = Batcher(lambda: model, Settings(api_key="", max_batch=4, max_queue=6), Metrics())
    batcher.start()
    while batcher.state == "loading":
        time.sleep(0.001)
    yield batcher
    model.go.set()
    batcher.stop()
    assert not batcher._thread.is_alive()


def chat(letters, wants_pieces=False) -> ChatJob:
    return ChatJob(letters, ChatOptions(), time.perf_counter(), wants_pieces)


def in_time(work):
    """Run it; a test that hangs says so."""
    return asyncio.run(asyncio.wait_for(work, 30))


async def result(job):
    while isinstance(event := await job.next(), str):
        pass
    return event


async def submit_while_busy(batcher, model, *jobs):
    """All `jobs` wait while the thread is busy with another, and are let go at once."""
    model.go.clear()
    first = chat(1)
    batcher.submit(first)
    while not batcher._running:
        await asyncio.sleep(0.001)
    for job in jobs:
        batcher.submit(job)
    model.go.set()
    await result(first)


def test_what_waits_is_answered_together_up_to_the_limit(batcher, model):
    async def run():
        jobs = [chat(n) for n in (3, 1, 2, 4, 5)]
        await submit_while_busy(batcher, model, *jobs)
        assert [len((await result(job)).text) for job in jobs] == [3, 1, 2, 4, 5]
    in_time(run())
    assert model.batches == [[1], [3, 1, 2, 4], [5]]


def test_a_short_reply_waits_for_no_long_one(batcher, model):
    async def run():
        jobs = [chat(2), chat(60)]
        await submit_while_busy(batcher, model, *jobs)
        await result(jobs[0])
        assert len(model.steps) < 40
        await result(jobs[1])
    in_time(run())
    assert model.batches[-1] == [2, 60]


def test_pieces_come_in_order_and_add_up(batcher):
    async def run():
        job = chat(4, wants_pieces=True)
        batcher.submit(job)
        events = [await job.next() for _ in range(5)]
        assert events[:4] == ["x"] * 4 and events[4].text == "xxxx"
    in_time(run())


def test_other_work_keeps_its_place_and_is_done_alone(batcher, model):
    order = []

    async def run():
        call = CallJob(lambda: order.append("call") or 7)
        before, after = chat(1), chat(1)
        await submit_while_busy(batcher, model, call, before, after)
        assert await result(call) == 7
        await result(before)
    in_time(run())
    assert order == ["call"] and model.batches == [[1], [1, 1]]


def test_a_recording_that_cannot_be_listened_to_fails_alone(batcher, model):
    async def run():
        bad, worse, good = chat(AudioError("messages[0].content[1]: too short")), chat(RuntimeError("oh")), chat(2)
        await submit_while_busy(batcher, model, bad, good, worse)
        assert (await result(good)).text == "xx"
        with pytest.raises(ApiError) as raised:
            await result(bad)
        assert (raised.value.status, raised.value.param) == (400, "messages[0].content[1]")
        with pytest.raises(ApiError) as raised:
            await result(worse)
        assert raised.value.status == 500 and "oh" not in str(raised.value)
    in_time(run())


def test_a_failure_of_the_model_fails_its_batch_and_no_other(batcher, model):
    async def run():
        jobs = [chat("break"), chat(1)]
        await submit_while_busy(batcher, model, *jobs)
        for job in jobs:
            with pytest.raises(ApiError) as raised:
                await result(job)
            assert raised.value.status == 500
        later = chat(2)
        batcher.submit(later)
        assert (await result(later)).text == "xx"
    in_time(run())


def test_a_cancelled_job_ends_within_a_step_and_its_mates_go_on(batcher, model):
    async def run():
        endless, short = chat(10**9, wants_pieces=True), chat(10)
        await submit_while_busy(batcher, model, endless, short)
        await endless.next()
        endless.cancel()
        cancelled_at = time.perf_counter()
        with pytest.raises(ApiError):
            await result(endless)
        assert (await result(short)).text == "x" * 10
        endless.cancel()
        return cancelled_at
    cancelled_at = in_time(run())
    assert sum(step > cancelled_at for step in model.steps) <= 10


def test_a_job_that_is_cancelled_while_it_waits_never_starts(batcher, model):
    async def run():
        unwanted, wanted = chat(7), chat(1)
        unwanted.cancel()
        await submit_while_busy(batcher, model, unwanted, wanted)
        await result(wanted)
    in_time(run())
    assert model.batches == [[1], [1]]


def test_places_are_limited_and_given_back(batcher):
    held = [batcher.place() for _ in range(6)]
    for place in held:
        place.__enter__()
    with pytest.raises(ApiError) as raised, batcher.place():
        pass
    assert raised.value.status == 429 and raised.value.headers["Retry-After"]
    held[0].__exit__(None, None, None)
    with batcher.place():
        pass


def test_the_audio_that_waits_is_limited_too(batcher, model):
    async def run():
        job, other = chat(1), chat(1)
        job.seconds, other.seconds = 7000.0, 201.0
        model.go.clear()
        batcher.submit(chat(1))
        while not batcher._running:
            await asyncio.sleep(0.001)
        batcher.submit(job)
        with pytest.raises(ApiError) as raised:
            batcher.submit(other)
        assert raised.value.status == 429 and "audio" in str(raised.value)
        model.go.set()
        await result(job)
        batcher.submit(other)
        await result(other)
    in_time(run())


def test_a_server_that_ends_admits_nothing_and_finishes_what_it_has(batcher, model):
    async def run():
        jobs = [chat(3), chat(4)]
        await submit_while_busy(batcher, model, *jobs)
        batcher.drain()
        with pytest.raises(ApiError) as raised, batcher.place():
            pass
        assert raised.value.status == 503 and batcher.state == "shutting down"
        await asyncio.to_thread(batcher.stop)
        assert [(await result(job)).text for job in jobs] == ["xxx", "xxxx"]
    in_time(run())


def test_while_the_model_is_loaded_nothing_is_admitted():
    loaded = threading.Event()
    batcher = Batcher(lambda: loaded.wait() and FakeModel(), Settings(api_key=""), Metrics())
    batcher.start()
    with pytest.raises(ApiError) as raised, batcher.place():
        pass
    assert raised.value.status == 503 and batcher.state == "loading"
    loaded.set()
    while batcher.state == "loading":
        time.sleep(0.001)
    with batcher.place() as model:
        assert isinstance(model, FakeModel)
    batcher.stop()


def test_a_thread_that_dies_is_told_and_its_jobs_fail(batcher, model):
    told = threading.Event()
    batcher._on_failure = told.set

    async def run():
        def die():
            raise SystemExit
        jobs = [CallJob(die), chat(1)]
        await submit_while_busy(batcher, model, *jobs)
        for job in jobs:
            with pytest.raises(ApiError):
                await result(job)
        with pytest.raises(ApiError):
            batcher.submit(chat(1))
    in_time(run())
    assert told.wait(5) and batcher.state == "failed"


def test_a_long_recordings_pieces_are_one_request(batcher):
    """They leave others as many places as any request does."""
    async def run():
        jobs = [chat(1) for _ in range(5)]
        for job in jobs:
            job.request = "one and the same"
        with ExitStack() as held:
            held.enter_context(batcher.place())
            batcher._running = jobs
            for _ in range(6):
                held.enter_context(batcher.place())
            with pytest.raises(ApiError, match="waiting already"), batcher.place():
                pass
        batcher._running = []
    in_time(run())


def test_who_has_gone_is_not_listened_to(batcher, model):
    """Long recordings are heard one after another, and somebody may leave in between."""
    async def run():
        jobs = [chat(letters) for letters in (1, 2, 3)]
        for job in jobs:
            job.seconds = 100.0
        listen = model.listen

        def leave(conversations):
            jobs[1].cancel()
            return listen(conversations)
        model.listen = leave
        await submit_while_busy(batcher, model, *jobs)
        await result(jobs[2])
    in_time(run())
    assert model.batches[-1] == [1, 3]
