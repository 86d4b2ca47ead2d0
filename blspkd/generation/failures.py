"""An utterance that cannot be continued costs itself alone: it is written down as failed, and the others go on.

What the user has to correct (`BlspkdError`) and signals are no failures. Where a batch fails, out of memory for
example, its utterances are continued one by one, and those that fail alone are the guilty ones. An error after which
nothing works any more, as after an assertion on a GPU, ends the process.

A process that dies tells nothing. So the next one that gets the same batches (`Lease.deaths`) becomes careful after
`DEATHS`: one utterance at a time, of which it notes in a file beside the lease that it is the one at hand. The one
after that skips it.
"""

import gc
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from blspkd.errors import BlspkdError, Stopped
from blspkd.files import read_json
from blspkd.generation import filters
from blspkd.kaldi.leases import Lease

DEATHS = 2  # of processes that had the same batches, from which on the next one is careful
HARMLESS_ENDS = (BlspkdError, Stopped, KeyboardInterrupt, SystemExit)  # no failures of an utterance
HARMLESS = {"": "Hello."}  # what any LLM can continue that can continue anything

Texts = Mapping[str, str]  # utterance -> transcript


class Writer(Protocol):
    """What stage 2 needs of `ContinuationWriter`."""

    def plan(self, transcripts: Texts) -> list[list[str]]: ...

    def rows(self, transcripts: Texts, batch: list[str]) -> list[dict]: ...


def plan_batches(writer: Writer, transcripts: Texts) -> list[list[str]]:
    """`writer.plan`; utterances that it fails on come with the first batch."""
    with _caught() as failure:
        return writer.plan(transcripts)
    bad = []
    for utt_id, text in transcripts.items():
        with _caught() as alone:
            writer.plan({utt_id: text})
        if alone:
            bad.append(utt_id)
    _check_usable(writer, failure[0])
    batches = writer.plan({utt_id: text for utt_id, text in transcripts.items() if utt_id not in bad})
    return [bad + batches[0], *batches[1:]]


def write_batch(writer: Writer, transcripts: Texts, batch: list[str]) -> list[dict]:
    """`writer.rows`; utterances that it fails on are written down as failed."""
    with _caught() as failure:
        return writer.rows(transcripts, batch)
    _free_memory(failure[0])
    if len(batch) > 1:
        _tell(f"a batch of {len(batch)} utterances failed: {_shown(failure[0])}; its utterances follow one by one")
        return [row for utt_id in batch for row in write_batch(writer, transcripts, [utt_id])]
    _check_usable(writer, failure[0])
    _tell(f"utterance {batch[0]} is left out ({filters.FAILED}): {_shown(failure[0])}")
    return [failed_row(batch[0])]


class Carefully:
    """A writer that works on one utterance at a time, and notes which; those that killed others are skipped."""

    def __init__(self, writer: Writer, lease: Lease):
        self.writer, self.note = writer, lease.note
        before = read_json(self.note)
        self.skipped: list[str] = before.get("skipped", []) + ([before["at"]] if "at" in before else [])
        for utt_id in self.skipped[-1:]:
            _tell(f"utterance {utt_id} is left out ({filters.FAILED}): a process died while it was at hand; to try it "
                  f"once more, remove {self.note}")
        self._write({})

    def plan(self, transcripts: Texts) -> list[list[str]]:
        for utt_id, text in transcripts.items():
            if utt_id not in self.skipped:
                with self._at_hand(utt_id):
                    plan_batches(self.writer, {utt_id: text})
        rest = {utt_id: text for utt_id, text in transcripts.items() if utt_id not in self.skipped}
        skipped = [utt_id for utt_id in transcripts if utt_id in self.skipped]
        batches = plan_batches(self.writer, rest) if rest else [[]]
        return [skipped + batches[0], *batches[1:]]

    def rows(self, transcripts: Texts, batch: list[str]) -> list[dict]:
        rows = []
        for utt_id in batch:
            if utt_id in self.skipped:
                rows.append(failed_row(utt_id))
                continue
            with self._at_hand(utt_id):
                rows += write_batch(self.writer, transcripts, [utt_id])
        return rows

    @contextmanager
    def _at_hand(self, utt_id: str) -> Iterator[None]:
        """What kills the process in this block is the utterance's fault; what only ends it is not."""
        self._write({"at": utt_id})
        try:
            yield
        except HARMLESS_ENDS:
            self._write({})
            raise
        self._write({})

    def _write(self, more: dict) -> None:
        self.note.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.note.with_suffix(".note-new")  # nobody else writes here: the lease is ours
        temporary.write_text(json.dumps({"skipped": self.skipped, **more}), encoding="utf-8")
        temporary.replace(self.note)


def failed_row(utt_id: str) -> dict:
    """The line of an utterance that could not be continued."""
    return {"utt_id": utt_id, "text": "", "n_tokens": 0, "finished": False, "reason": filters.FAILED}


@contextmanager
def _caught() -> Iterator[list[BaseException]]:
    """The list gets what was raised in the block, unless it is no failure of an utterance."""
    found: list[BaseException] = []
    try:
        yield found
    except HARMLESS_ENDS:
        raise
    except BaseException as error:  # a panic of tokenizers (Rust) is no Exception
        found.append(error.with_traceback(None))  # which would keep the batch's tensors


def _check_usable(writer: Writer, failure: BaseException) -> None:
    """Raise `failure` where nothing can be continued any more."""
    try:
        writer.rows(HARMLESS, writer.plan(HARMLESS)[0])
    except BlspkdError:
        pass
    except BaseException:
        raise failure from None


def _free_memory(failure: BaseException) -> None:
    """Of a batch that did not fit."""
    if not isinstance(failure, MemoryError) and "out of memory" not in str(failure):
        return
    gc.collect()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()


def _shown(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _tell(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
