"""From measured utterances (`alignment`) to numbers: means with intervals, curves by position, slices.

A mean is over all positions (or boundaries, or utterances) together; its interval is the 95% percentile range over
utterances drawn with replacement.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blspkd.evaluation import bootstrap
from blspkd.evaluation.boundaries import NEAR_MS
from blspkd.evaluation.results import Row, read_results, update_results
from blspkd.evaluation.scoring import Experiment
from blspkd.files import atomic_write

RARITY = (0, 1, 10, 100, 1000)  # lower ends of the classes of training frequency
MAX_SPEAKERS = 100  # more are not listed one by one


@dataclass(frozen=True)
class Measure:
    """`values` of one utterance's row, pooled over utterances and averaged, or their median."""

    values: Callable[[Mapping], Sequence[float]]
    signature: str
    median: bool = False

    def pooled(self, rows: Sequence[Mapping]) -> list[np.ndarray]:
        return [np.asarray(self.values(row), dtype=np.float64) for row in rows]


def _list(key: str, change: Callable[[np.ndarray], np.ndarray] = lambda values: values):
    return lambda row: change(np.asarray(row.get(key) or [], dtype=np.float64))


def _flag(key: str) -> Callable[[Mapping], Sequence[float]]:
    return lambda row: [] if row.get(key) is None else [100.0 * row[key]]


def _count_error(row: Mapping) -> list[int]:
    return [] if row.get("n_predicted") is None else [row["n_predicted"] - row["n_tokens"]]


_KL = "KL(text||speech), temperature 1"
_MEANS = "cosine of mean speech tokens (predicted token count) and mean text embeddings, no LLM"
_LATE = "fires with the true token count; ends of words but the last"
MEASURES = {
    "input_kl": Measure(_list("input_kl"), f"{_KL}, true token count, mean over positions"),
    "top1": Measure(_list("input_top1", lambda v: 100 * v),
                    "same most likely token, true token count, input positions"),
    "response_kl": Measure(_list("response_kl"), f"{_KL}, predicted token count, mean over positions"),
    "first_kl": Measure(lambda row: [row["first_kl"]], f"{_KL}, predicted token count, first response token"),
    "response_top1": Measure(_list("response_top1", lambda v: 100 * v),
                             "same most likely token, predicted token count, response positions"),
    "response_kl_true": Measure(_list("response_kl_true"), f"{_KL}, true token count, mean over positions"),
    "nearest_wer": Measure(lambda row: [100 * row["nearest_errors"] / row["nearest_words"]] * row["nearest_words"]
                           if row.get("nearest_words") else [],
                           "speech tokens read as the nearest text embeddings, predicted token count, no LLM"),
    "nearest_top1": Measure(_list("nearest_top1", lambda v: 100 * v),
                            "the nearest text embedding is the transcript's, true token count"),
    "r1_speech_to_text": Measure(_flag("retrieves_text"),
                                 f"the nearest transcript of the set is the utterance's own; {_MEANS}"),
    "r1_text_to_speech": Measure(_flag("is_retrieved"),
                                 f"the nearest utterance of the set says the transcript; {_MEANS}"),
    "count_accuracy": Measure(lambda row: [100.0 * (e == 0) for e in _count_error(row)],
                              "speech tokens == transcript tokens"),
    "count_mae": Measure(lambda row: [abs(e) for e in _count_error(row)], "|predicted - true| tokens"),
    "count_bias": Measure(_count_error, "predicted - true tokens"),
    "boundary_mean_ms": Measure(_list("boundary_errors_ms", np.abs), f"mean |error|; {_LATE}"),
    "boundary_median_ms": Measure(_list("boundary_errors_ms", np.abs), f"median |error|; {_LATE}", median=True),
    "boundary_bias_ms": Measure(_list("boundary_errors_ms"), f"median error, positive is late; {_LATE}", median=True),
    **{f"boundary_within_{limit}": Measure(
        _list("boundary_errors_ms", lambda v, limit=limit: 100.0 * (np.abs(v) <= limit)),
        f"percent with |error| <= {limit} ms; {_LATE}") for limit in NEAR_MS},
}
CURVES = ("input_kl", "input_top1", "response_kl", "response_top1", "response_kl_true", "response_top1_true")


def value_of(measure: Measure, rows: Sequence[Mapping]) -> tuple[float, int] | None:
    """The pooled mean or median, and how many utterances have a part in it; None where none has."""
    found = [values for values in measure.pooled(rows) if len(values)]
    if not found:
        return None
    together = np.concatenate(found)
    return float(np.median(together) if measure.median else together.mean()), len(found)


def interval(measure: Measure, rows: Sequence[Mapping], num_bootstrap: int, seed: int) -> tuple[float, float]:
    """95% percentile interval over utterances that have values."""
    found = [values for values in measure.pooled(rows) if len(values)]
    sums, sizes = np.array([values.sum() for values in found]), np.array([len(values) for values in found])

    def statistic(drawn: np.ndarray) -> Sequence[float]:
        if measure.median:
            return [np.median(np.concatenate([found[i] for i in row])) for row in drawn]
        return sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)

    return bootstrap.interval(statistic, len(found), num_bootstrap, seed)


def update_alignment_results(path: str | Path, rows: Sequence[Mapping], experiment: Experiment, set_name: str,
                             num_bootstrap: int, seed: int) -> list[Row]:
    """Put the measures of one set into `results.json`; returns the rows of this set and system.

    `count_accuracy` is the one that scoring wrote, where it has.
    """
    new = []
    for name, measure in MEASURES.items():
        found = value_of(measure, rows)
        if found:
            signature = f"{measure.signature}|bs:{num_bootstrap}|seed:{seed}"
            new.append(Row(experiment.system, set_name, "alignment", name, found[0],
                           list(interval(measure, rows, num_bootstrap, seed)), found[1], experiment.seed, signature))
    place = (experiment.system, set_name, "alignment", experiment.seed)

    def ours(row: Row) -> bool:
        return (row.system, row.set, row.task, row.seed) == place and row.metric in MEASURES

    scored = [row for row in (read_results(path) if Path(path).exists() else [])
              if ours(row) and row.metric == "count_accuracy" and row.n >= len(rows)]
    if scored:
        new = [row for row in new if row.metric != "count_accuracy"] + scored
    return [row for row in update_results(path, new, ours) if ours(row)]


def write_summary(path: str | Path, rows: Sequence[Mapping], data_dir: str | Path) -> dict:
    """`summary.json`: all measures, curves by position, slices. Returns what it wrote."""
    summary = {
        "data_dir": str(data_dir), "n": len(rows),
        "without_continuation": sum(not row["response_kl"] for row in rows),
        "without_word_times": sum("words" not in row for row in rows),
        "words_that_differ_from_the_transcript": sum("boundaries" in row and row["boundaries"] is None for row in rows),
        "last_boundary_bias_ms": _median([row["last_error_ms"] for row in rows if "last_error_ms" in row]),
        "measures": _measures(rows),
        "by_position": {key: curve for key in CURVES if (curve := _by_position(rows, key))},
        "slices": _slices(rows),
        "token_slices": _token_slices(rows),
    }
    with atomic_write(path) as file:
        json.dump(summary, file, indent=1, ensure_ascii=False)
    return summary


def _measures(rows: Sequence[Mapping]) -> dict[str, float]:
    return {name: round(found[0], 4) for name, measure in MEASURES.items() if (found := value_of(measure, rows))}


def _by_position(rows: Sequence[Mapping], key: str) -> list[dict]:
    """Mean at the first, second ... position, over the utterances that are long enough."""
    lists = [row[key] for row in rows if row.get(key)]
    longest = max(map(len, lists), default=0)
    columns = [[values[place] for values in lists if len(values) > place] for place in range(longest)]
    return [{"position": place, "mean": round(float(np.mean(column)), 5), "n": len(column)}
            for place, column in enumerate(columns, 1)]


def _slices(rows: Sequence[Mapping]) -> dict[str, list[dict]]:
    """The measures of parts of the set."""
    groups = {"duration": _thirds(rows, lambda row: row["duration"], "s"),
              "speaking rate": _thirds(rows, lambda row: row["n_tokens"] / row["duration"], "tokens/s"),
              "token count": _named(rows, lambda row: None if row.get("n_predicted") is None else
                                    "right" if row["n_predicted"] == row["n_tokens"] else "wrong")}
    if all("token_counts" in row for row in rows):
        groups["rarest token"] = _classes(rows, lambda row: min(row["token_counts"]))
    speakers = _named(rows, lambda row: row["speaker"])
    if len(speakers) <= MAX_SPEAKERS:
        groups["speaker"] = speakers
    return {name: [{"label": label, "n": len(part), **_measures(part)} for label, part in parts.items()]
            for name, parts in groups.items() if len(parts) > 1}


def _token_slices(rows: Sequence[Mapping]) -> dict[str, list[dict]]:
    """Input KL and top-1 agreement of tokens by how often they occur in the training transcripts."""
    tokens = [{"count": count, "input_kl": kl, "top1": 100.0 * top1} for row in rows if row.get("input_kl")
              for count, kl, top1 in zip(row.get("token_counts", []), row["input_kl"], row["input_top1"], strict=False)]
    parts = _classes(tokens, lambda token: token["count"])
    return {"training frequency": [{"label": label, "n": len(part),
                                    **{key: round(float(np.mean([token[key] for token in part])), 4)
                                       for key in ("input_kl", "top1")}} for label, part in parts.items()]}


def _thirds(rows: Sequence[Mapping], key: Callable[[Mapping], float], unit: str) -> dict[str, list[Mapping]]:
    ordered = sorted(rows, key=key)
    size = math.ceil(len(ordered) / 3)
    found: dict[str, list[Mapping]] = {}
    for start in range(0, len(ordered), size):
        part = ordered[start:start + size]
        found.setdefault(f"{key(part[0]):.1f}-{key(part[-1]):.1f} {unit}", []).extend(part)
    return found


def _named(rows: Sequence[Mapping], key: Callable[[Mapping], str | None]) -> dict[str, list[Mapping]]:
    found: dict[str, list[Mapping]] = {}
    for row in rows:
        if key(row) is not None:
            found.setdefault(key(row), []).append(row)
    return dict(sorted(found.items()))


def _classes(rows: Sequence[Mapping], key: Callable[[Mapping], int]) -> dict[str, list[Mapping]]:
    """By training frequency: 0, 1-9, 10-99, 100-999, 1000 and more."""
    tops = [*RARITY[1:], None]
    labels = [f"{low}+" if top is None else f"{low}-{top - 1}" if top - low > 1 else str(low)
              for low, top in zip(RARITY, tops, strict=True)]
    found = {label: [row for row in rows if key(row) >= low and (top is None or key(row) < top)]
             for label, low, top in zip(labels, RARITY, tops, strict=True)}
    return {label: part for label, part in found.items() if part}


def _median(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 2) if len(values) else None
