"""The one thread that has the model: it takes the requests that wait, and answers them in one batch.

Nothing is waited for: whenever the thread is free it takes whatever is there. While it works, others gather, so that
batches grow with the load by themselves. The model's kernels run here only; the event loop stays free.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from blspkd.errors import BlspkdError, ModelError
from blspkd.models.chat import SpeechLLM, Turn
from blspkd.models.reply import Reply
from blspkd.serve.api_error import ApiError, api_error
from blspkd.serve.jobs import CallJob, ChatJob, Job
from blspkd.serve.memory import FreeMemory
from blspkd.serve.metrics import Metrics
from blspkd.serve.settings import Settings

LOADING, READY, DRAINING, FAILED = "loading", "ok", "shutting down", "failed"
RETRY = {"Retry-After": "1"}  # seconds
AT_ONCE = 120.0  # seconds of audio that are listened to before it is seen whether anybody still waits
IDLE = 1.5  # seconds without a job, after which the work of the last ones is tidied up
logger = logging.getLogger(__name__)


class Batcher:
    """All but `cancelled` flags and events of jobs is for the event loop's thread, unless it says otherwise."""

    def __init__(self, load: Callable[[], SpeechLLM], settings: Settings, metrics: Metrics,
                 on_failure: Callable[[], None] = lambda: None):
        """load: makes the model, in the thread; on_failure: called there when that, or the thread, fails."""
        self.model: SpeechLLM | None = None
        self.failure: BaseException | None = None
        self.draining = False
        self._load, self._settings, self._metrics, self._on_failure = load, settings, metrics, on_failure
        self._places = 0  # requests from their admission to their answer
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._ended = False
        self._changed = threading.Condition()  # guards the three above
        self._free_memory = FreeMemory()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def state(self) -> str:
        if self.failure is not None:
            return FAILED
        return DRAINING if self.draining else LOADING if self.model is None else READY

    @contextmanager
    def place(self) -> Iterator[SpeechLLM]:
        """A place for a request until it has its answer, and the model. Raises ApiError: 503, or 429 if all are taken.

        Asked for before the body is read, so that what waits is bounded, too.
        """
        if self.state != READY:
            raise ApiError(503, f"the server is {self.state}; try again later", code="unavailable", headers=RETRY)
        running = {job.request for job in self._running if not job.answered}
        if self._places - len(running) >= self._settings.max_queue:
            raise _full(f"{self._settings.max_queue} requests")
        self._places += 1
        try:
            yield self.model
        finally:
            self._places -= 1

    def submit(self, job: Job) -> None:
        """Put `job` into the queue. Raises ApiError: 503 where the thread has failed, 429 if too much audio waits."""
        with self._changed:
            if self.failure is not None:
                raise ApiError(503, "the server has failed", code="unavailable")
            waiting = sum(other.seconds for other in self._waiting)
            if waiting and waiting + job.seconds > self._settings.max_queue_seconds:
                raise _full(f"{self._settings.max_queue_seconds:g} seconds of audio")
            self._waiting.append(job)
            self._metrics.queue_length.set(len(self._waiting))
            self._changed.notify()

    def drain(self) -> None:
        """Admit no more requests; takes no lock, so that a signal handler may call it."""
        self.draining = True

    def stop(self, seconds: float = 10.0) -> None:
        """End the thread, which finishes what it has begun."""
        self.draining = True
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(seconds)

    def _work(self) -> None:
        try:
            self.model = self._load()
            while self._take():
                self._run()
        except BaseException as error:  # without this thread nothing goes on
            if not isinstance(error, BlspkdError):  # which says by itself what to do
                logger.exception("the model's thread has failed")
            self._fail(error)

    def _take(self) -> bool:
        """Wait for jobs and make them the running ones; False when there will be none.

        The oldest job decides what is done: if it is a conversation, all that wait are taken along.
        """
        if not self._waiting:
            self._free_memory.give_back()
        with self._changed:
            idle = not self._changed.wait_for(lambda: self._drop_cancelled() or self._ended, IDLE)
        if idle:
            self._free_memory.give_back()
        with self._changed:
            self._changed.wait_for(lambda: self._drop_cancelled() or self._ended)
            kind = type(self._waiting[0]) if self._waiting else Job
            alike = [job for job in self._waiting if isinstance(job, kind)]
            self._running = alike[:1 if kind is CallJob else self._settings.max_batch]
            taken = set(self._running)
            self._waiting = deque(job for job in self._waiting if job not in taken)
            self._metrics.queue_length.set(len(self._waiting))
            return bool(self._running)

    def _drop_cancelled(self) -> bool:
        """Whether any job is left."""
        self._waiting = deque(job for job in self._waiting if not job.cancelled)
        return bool(self._waiting)

    def _run(self) -> None:
        """Answer the running jobs; a failure is the answer of those that it concerns."""
        try:
            if isinstance(self._running[0], CallJob):
                self._call(self._running[0])
            else:
                self._chat(self._running)
        except ModelError:
            raise  # there is no model any more (it ran in another process), so that nothing can go on
        except Exception as error:
            logger.exception("a batch of %d has failed", len(self._running))
            for job in self._running:
                if not job.answered:
                    job.tell(api_error(error))
        with self._changed:
            self._running = []

    def _call(self, job: CallJob) -> None:
        try:
            job.tell(job.call())
        except BlspkdError as error:
            job.tell(api_error(error))

    def _chat(self, jobs: list[ChatJob]) -> None:
        heard = self._listen(jobs)
        if not heard:
            return
        self._metrics.batch_size.observe(len(heard))
        jobs, turns = [job for job, _ in heard], [turn for _, turn in heard]
        self.model.generate(turns, [job.options for job in jobs], lambda row, piece: jobs[row].tell_piece(piece),
                            lambda row: jobs[row].cancelled, on_reply=lambda row, reply: self._tell(jobs[row], reply))
        if len(jobs) > 1:
            self._free_memory.scatter()

    def _tell(self, job: ChatJob, reply: Reply) -> None:
        self._metrics.prompt_tokens.inc(reply.prompt_tokens)
        self._metrics.speech_tokens.inc(reply.speech_tokens)
        self._metrics.generated_tokens.inc(reply.completion_tokens)
        if job.first_token is not None:
            self._metrics.first_token.observe(job.first_token)
        job.tell_reply(reply)

    def _listen(self, jobs: list[ChatJob]) -> list[tuple[ChatJob, Turn]]:
        """Listen to the recordings of all, but to little enough at once that a job may be cancelled in between."""
        heard, group, seconds = [], [], 0.0
        for job, following in zip(jobs, [*jobs[1:], None], strict=True):
            group.append(job)
            seconds += job.seconds
            if following is None or seconds + following.seconds > AT_ONCE:
                heard += self._listen_to([job for job in group if not job.cancelled])
                group, seconds = [], 0.0
        return heard

    def _listen_to(self, jobs: list[ChatJob]) -> list[tuple[ChatJob, Turn]]:
        """Listen to all at once or, where that fails, to each alone, so that only those fail that have to.

        What was heard before the failure is remembered, and not listened to again.
        """
        if not jobs:
            return []
        try:
            return list(zip(jobs, self.model.listen([job.conversation for job in jobs]), strict=True))
        except Exception as error:
            if len(jobs) != 1:
                return [pair for job in jobs for pair in self._listen_to([job])]
            if not isinstance(error, BlspkdError):
                logger.exception("a recording could not be listened to")
            jobs[0].tell(api_error(error))
            return []

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self.failure = error
            lost = [job for job in [*self._running, *self._waiting] if not job.answered]
            self._waiting.clear()
        for job in lost:
            job.tell(ApiError(500, "the server has failed", code="internal_error"))
        self._on_failure()


def _full(what: str) -> ApiError:
    return ApiError(429, f"{what} are waiting already; try again later", code="queue_full", headers=RETRY)
