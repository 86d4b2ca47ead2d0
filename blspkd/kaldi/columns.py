"""Side tables of a data directory that judge utterances: `utt2score`, `utt2lang`, `utt2domain`, `utt2date`.

They are the user's; `utt2date` holds dates as `2019`, `2019-05` or `2019-05-31`.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from blspkd.errors import DataError
from blspkd.kaldi.tables import read_table

Value = TypeVar("Value")
_DATE = re.compile(r"(\d{4})(-\d\d(-\d\d)?)?")


def read_column(path: Path, utt_ids: Iterable[str], parse: Callable[[str], Value] = str) -> dict[str, Value]:
    """{utterance: its value} in the table `path`, of all `utt_ids`.

    parse: raises ValueError, which says what is wrong. Raises DataError where the table or an utterance is missing.
    """
    rows, values = read_table(path), {}
    missing = [utt_id for utt_id in utt_ids if utt_id not in rows]
    if missing:
        raise DataError(f"{path}: {len(missing)} utterances have no line, the first is {missing[0]}; add them")
    for utt_id in utt_ids:
        try:
            values[utt_id] = parse(rows[utt_id])
        except ValueError as error:
            raise DataError(f"{path}: {utt_id}: {error}; correct the line") from None
    return values


def parse_score(value: str) -> float:
    """A number; ValueError says what is wrong."""
    try:
        score = float(value)
    except ValueError:
        score = math.nan
    if math.isnan(score):
        raise ValueError(f"'{value}' is not a number")
    return score


def parse_year(value: str) -> int:
    """The year of a date; ValueError says what is wrong."""
    found = _DATE.fullmatch(value)
    if not found:
        raise ValueError(f"'{value}' is not a date like 2019, 2019-05 or 2019-05-31")
    return int(found[1])


def parse_word(value: str) -> str:
    """A name without blanks; ValueError says what is wrong."""
    if len(value.split()) != 1:
        raise ValueError(f"'{value}' is not a single word")
    return value


def read_transcripts(data_dir: Path, place: str, utt_ids: Iterable[str]) -> Mapping[str, str]:
    """{utterance: what a recogniser wrote}, "" where that is nothing (the id alone on its line).

    place: a file of the data directory (`text.asr`), or else a folder with a `text` as bin/transcribe writes it, or
    such a file. Raises DataError where the file or an utterance is missing.
    """
    path = transcripts_file(data_dir, place)
    if path is None:
        raise DataError(f"{place}: there are no transcripts: neither a file of {data_dir}, nor a folder with `text`; "
                        "let a recogniser transcribe the set first (blspkd.bin.transcribe)")
    rows = read_table(path, allow_empty=True)
    missing = [utt_id for utt_id in utt_ids if utt_id not in rows]
    if missing:
        raise DataError(f"{path}: {len(missing)} utterances have no line, the first is {missing[0]}; transcribe the "
                        "set again (one without words has its id alone on the line)")
    return rows


def transcripts_file(data_dir: Path, place: str) -> Path | None:
    """The file that `place` names, as in `read_transcripts`; None where there is none."""
    return next((path for path in (data_dir / place, Path(place), Path(place) / "text") if path.is_file()), None)
