"""Where tokens close against where words are known to end.

CIF says at which time u the last piece of a token comes in. What is known of the speech is where words end (or several
words that have no boundary between them, such as a synthesiser's "in the"). Inside a word nobody knows where a token
should end, so only tokens that end a word are compared, each with the end of its word. The last token of an utterance
is left out: CIF always closes it with the last frame, whatever was said.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from blspkd.kaldi.word_times import Word

NEAR_MS = (50, 100)  # shares of errors within these are reported


@dataclass(frozen=True)
class Boundary:
    """A token that ends a word, and when."""

    token: int  # counted from 0
    end: float  # seconds


def word_boundaries(transcript: str, spans: Sequence[tuple[int, int]], words: Sequence[Word]) -> list[Boundary] | None:
    """The tokens of `transcript` that end one of `words`, but not the last one; None where the two do not agree.

    spans: characters [start, end) of the transcript that each token covers
    words: in order; their texts, with any blanks and punctuation between them, make up the transcript
    A word whose end lies inside a token, because the token reaches into the next word, has no boundary.
    """
    found, place = [], 0
    ends, starts = [], []
    for word in words:
        start = transcript.lower().find(word.text.lower(), place)
        if start < 0 or any(character.isalnum() for character in transcript[place:start]):
            return None
        place = start + len(word.text)
        starts.append(start)
        ends.append(place)
    if any(character.isalnum() for character in transcript[place:]):
        return None
    for word, end, following in zip(words, ends, [*starts[1:], len(transcript)], strict=True):
        closing = [i for i, (left, right) in enumerate(spans) if left < end <= right]
        # Several tokens may share a character (parts of one written in bytes): the last of them ends it.
        if closing and spans[closing[-1]][1] <= following and closing[-1] < len(spans) - 1:
            found.append(Boundary(closing[-1], word.end))
    return found


def errors_ms(boundaries: Sequence[Boundary], fire_times: Sequence[float]) -> list[float]:
    """Milliseconds by which each boundary's token closes too late (negative: too early).

    fire_times: seconds, of as many tokens as the transcript has.
    """
    return [1000.0 * (fire_times[boundary.token] - boundary.end) for boundary in boundaries]
