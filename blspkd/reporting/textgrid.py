"""Praat TextGrid files (long text format) of when tokens fired, and when words were spoken.

One interval tier each: `tokens`, the stretches between two fires, and `words` where their times are known. Intervals of
a tier follow one another without a gap from 0 to the utterance's end; what nobody spoke in is an empty interval.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from blspkd.errors import DataError
from blspkd.files import atomic_write
from blspkd.reporting.pages import render

Interval = tuple[float, float, str]  # start, end (seconds), text


def token_intervals(row: Mapping) -> list[Interval]:
    """One interval per fire of a row of `utterances.jsonl`.

    Their texts are the transcript's tokens where as many were predicted, else numbers: nobody knows which are which.
    """
    times = row["fire_times"]
    texts = row["tokens"] if len(times) == len(row["tokens"]) else [str(number) for number in range(1, len(times) + 1)]
    return [(start, end, text.strip() or text) for start, end, text in zip([0.0, *times], times, texts, strict=False)]


def tiers_of(row: Mapping) -> dict[str, list[Interval]]:
    """The tiers of a row of `utterances.jsonl`: `tokens`, `tokens (true number)`, `words`, where it has them."""
    tiers = {}
    if row.get("fire_times"):
        tiers["tokens"] = token_intervals(row)
        if len(row["fire_times"]) != len(row["tokens"]):
            tiers["tokens (true number)"] = token_intervals({**row, "fire_times": row["fire_times_true"]})
    if row.get("words"):
        tiers["words"] = [tuple(word) for word in row["words"]]
    return tiers


def write_textgrid(path: str | Path, duration: float, tiers: Mapping[str, Sequence[Interval]]) -> None:
    """Write `tiers` of an utterance of `duration` seconds; intervals are in order of time and do not overlap.

    What reaches past the end is cut, what has no length is left out (Praat refuses both), and gaps are filled.
    Raises DataError where there is nothing to write.
    """
    if not tiers or duration <= 0:
        raise DataError(f"{path}: there is nothing to write: no fires and no words are known")
    text = render("utterance.TextGrid", duration=duration, number=_number, quoted=_quoted,
                  tiers={name: fill(intervals, duration) for name, intervals in tiers.items()})
    with atomic_write(path) as file:
        file.write(text + "\n")


def fill(intervals: Sequence[Interval], duration: float) -> list[Interval]:
    """`intervals` without gaps from 0 to `duration`; times are rounded as they are written."""
    whole: list[Interval] = []
    last, duration = 0.0, _round(duration)
    for start, end, text in intervals:
        start, end = max(_round(start), last), min(_round(end), duration)
        if end <= start:
            continue
        if start > last:
            whole.append((last, start, ""))
        whole.append((start, end, text))
        last = end
    if last < duration:
        whole.append((last, duration, ""))
    return whole


def _round(seconds: float) -> float:
    return round(seconds, 5)


def _number(seconds: float) -> str:
    return f"{_round(seconds):.5f}".rstrip("0").rstrip(".")


def _quoted(text: str) -> str:
    doubled = text.replace('"', '""').replace("\n", " ")
    return f'"{doubled}"'
