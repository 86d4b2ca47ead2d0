"""One figure of `scale.py`, and what a straight line through two of them says of a hundred million utterances."""

from dataclasses import dataclass

FAR = 100_000_000


@dataclass
class Row:
    """One measurement, or an extrapolation, as it stands in the JSON file."""

    part: str  # start, stage 1, stage 2 or training
    what: str
    value: float
    unit: str  # s, MB (10^6 bytes), utt/s ...
    utterances: int = 0  # of the corpus; 0: that has no say
    bar: str = ""  # what it has to be
    measured: bool = True
    grows: bool = False  # with the utterances, in a straight line


def extrapolated(rows: list[Row]) -> list[Row]:
    """What grows, at FAR utterances: the straight line through its two largest corpora."""
    lines: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.grows:
            lines.setdefault((row.part, row.what), []).append(row)
    found = []
    for (part, what), points in lines.items():
        if len(points) > 1:
            first, last = sorted(points, key=lambda row: row.utterances)[-2:]
            slope = (last.value - first.value) / (last.utterances - first.utterances)
            value = max(0.0, last.value + slope * (FAR - last.utterances))
            found.append(Row(part, what, value, last.unit, FAR, measured=False))
    return found
