"""Which continuations are no use for training, and why; the reasons are counted in `continuation.info.json`."""

from collections.abc import Sequence

from blspkd.data.repetition import is_looping

EMPTY = "empty"  # nothing, or white space alone
TOO_SHORT = "too_short"  # fewer tokens than min_tokens
UNFINISHED = "unfinished"  # no end of turn within max_new_tokens (only with drop_unfinished)
REPETITION = "repetition"  # the same words again and again
SPECIAL_TOKENS = "special_tokens"  # the LLM wrote a control token: tokenised again, its spelling would be text
BROKEN_TEXT = "broken_text"  # bytes that are no character, e.g. one cut in half by max_new_tokens
INPUT_TOO_LONG = "input_too_long"  # the transcript exceeds max_input_tokens, or the LLM's context
FAILED = "failed"  # its generation ended in an error, or killed its process (blspkd.generation.failures)

MIN_LOOP_TOKENS = 12  # a loop is at least this long ...
MIN_LOOP_REPEATS = 4  # ... and goes round at least so often
MAX_LOOP_PERIOD = 32  # ... over at most this many tokens


def reject(token_ids: Sequence[int], text: str, finished: bool, special_ids: frozenset[int], min_tokens: int = 1,
           drop_unfinished: bool = False) -> str | None:
    """The reason to drop a continuation, or None to keep it.

    token_ids: what the LLM wrote, without the end-of-turn token; text: the same, decoded. Text that only spells a
    special token is kept: it stays text when it is tokenised again.
    """
    if special_ids.intersection(token_ids):
        return SPECIAL_TOKENS
    if not text.strip():
        return EMPTY
    if len(token_ids) < min_tokens:
        return TOO_SHORT
    if drop_unfinished and not finished:
        return UNFINISHED
    if "\ufffd" in text:
        return BROKEN_TEXT
    if is_looping(token_ids, MAX_LOOP_PERIOD, MIN_LOOP_REPEATS, MIN_LOOP_TOKENS):
        return REPETITION
    return None
