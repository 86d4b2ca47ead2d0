"""When the words of an utterance were spoken: the optional file `word_times` of a data directory.

Several lines `<utt-id> <start s> <end s> <text>` per utterance, in order of time; lines of one utterance stand
together. `text` is what is said between the two times: mostly a word, sometimes several that have no boundary between
them. An end is where the next text starts, or where the speech ends, as synthesisers and forced aligners give it.
"""

from dataclasses import dataclass
from pathlib import Path

from blspkd.errors import DataError
from blspkd.kaldi.tables import open_table


@dataclass(frozen=True, slots=True)
class Word:
    """`text` is spoken from `start` to `end`, in seconds from the utterance's begin."""

    start: float
    end: float
    text: str


def read_word_times(path: str | Path) -> dict[str, list[Word]]:
    """{utt-id: its words in order of time}. Raises DataError naming file and line for what is none of this."""
    found: dict[str, list[Word]] = {}
    previous = ""
    with open_table(path) as file:
        for number, line in enumerate(file, 1):
            try:
                utt_id, start, end, text = line.decode("utf-8").strip().split(maxsplit=3)
                word = Word(float(start), float(end), text)
                if not 0 <= word.start <= word.end < float("inf"):
                    raise ValueError("its times are not a stretch of time")
                if utt_id in found and (utt_id != previous or word.start < found[utt_id][-1].end - 1e-6):
                    raise ValueError("it begins before the line of this utterance above it ends")
            except ValueError as error:
                raise DataError(f"{path}:{number}: expected `<utt-id> <start s> <end s> <text>` in order of time "
                                f"({error}); mend the line or remove the file") from None
            found.setdefault(utt_id, []).append(word)
            previous = utt_id
    return found
