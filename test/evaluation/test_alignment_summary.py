"""Numbers made of measured utterances: pooled values, intervals, curves, slices."""

import json

import numpy as np
import pytest

from blspkd.evaluation.alignment_summary import (
    MEASURES,
    Measure,
    interval,
    update_alignment_results,
    value_of,
    write_summary,
)
from blspkd.evaluation.scoring import Experiment


def row(number, **changes):
    """Utterance `number` has that many tokens, and one more is heard when the number is odd."""
    return {"utt_id": f"u{number}", "speaker": f"s{number % 2}", "duration": number / 2, "n_tokens": number,
            "n_predicted": number + number % 2, "input_kl": [0.1 * number] * number, "input_top1": [True] * number,
            "first_kl": 0.5, "response_kl": [0.5, 0.25 * number], "response_top1": [True, False],
            "response_kl_true": [0.5], "response_top1_true": [True], "token_counts": [10**(number - 1)] * number,
            "boundary_errors_ms": [-60.0, 20.0] if number > 1 else [], "words": [], **changes}


ROWS = [row(number) for number in range(1, 7)]


@pytest.mark.parametrize("name, value, n", [
    ("input_kl", 0.1 * (1 + 4 + 9 + 16 + 25 + 36) / 21, 6), ("top1", 100, 6), ("first_kl", 0.5, 6),
    ("response_kl", (0.5 * 6 + 0.25 * 21) / 12, 6), ("count_accuracy", 50, 6), ("count_mae", 0.5, 6),
    ("count_bias", 0.5, 6), ("boundary_mean_ms", 40, 5), ("boundary_median_ms", 40, 5), ("boundary_bias_ms", -20, 5),
    ("boundary_within_50", 50, 5), ("boundary_within_100", 100, 5),
])
def test_values_are_pooled_over_utterances(name, value, n):
    assert value_of(MEASURES[name], ROWS) == (pytest.approx(value), n)


def test_what_no_utterance_has_has_no_value():
    conv = [{"utt_id": "u", "first_kl": 0.1, "response_kl": [], "n_speech_tokens": 9}]
    assert {name for name, measure in MEASURES.items() if value_of(measure, conv)} == {"first_kl"}


@pytest.mark.parametrize("median", [False, True])
def test_intervals_equal_the_slow_bootstrap(median):
    measure = Measure(lambda found: found["input_kl"], "", median)
    draw, statistic, slow = np.random.default_rng(3), np.median if median else np.mean, []
    for drawn in [row for _ in range(3) for row in draw.integers(len(ROWS), size=(100, len(ROWS)))]:
        slow.append(statistic(np.concatenate([ROWS[i]["input_kl"] for i in drawn])))
    assert interval(measure, ROWS, 300, 3) == pytest.approx(np.percentile(slow, [2.5, 97.5]).tolist())


def test_results_are_replaced_by_set_and_system_only(tmp_path):
    path = tmp_path / "results.json"
    for rows in (ROWS, ROWS[:3]):
        for set_name, seed in (("a", 0), ("b", 0), ("a", 1)):
            experiment = Experiment("blspkd", seed, True)
            update_alignment_results(path, rows if seed == 0 else ROWS, experiment, set_name, 20, 0)
    written = {(item["set"], item["seed"]): item["n"] for item in json.loads(path.read_text())
               if item["metric"] == "first_kl"}
    assert written == {("a", 0): 3, ("b", 0): 3, ("a", 1): 6}
    no_boundaries = [{**item, "boundary_errors_ms": []} for item in ROWS]
    found = update_alignment_results(path, no_boundaries, Experiment("blspkd", 0, True), "a", 20, 0)
    assert not [item for item in found if item.metric.startswith("boundary")]  # what was there before is gone


def test_summary_has_curves_and_slices(tmp_path):
    rows = [*ROWS, row(7, boundaries=None)]
    summary = write_summary(tmp_path / "summary.json", rows, "data/x")
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert (summary["n"], summary["words_that_differ_from_the_transcript"]) == (7, 1)
    curve = summary["by_position"]["input_kl"]
    assert [point["n"] for point in curve] == [7, 6, 5, 4, 3, 2, 1] and curve[-1]["mean"] == pytest.approx(0.7)
    assert sum(part["n"] for part in summary["slices"]["duration"]) == 7
    assert [part["label"] for part in summary["slices"]["token count"]] == ["right", "wrong"]
    assert [part["label"] for part in summary["slices"]["rarest token"]] == ["1-9", "10-99", "100-999", "1000+"]
    assert [(part["label"], part["n"]) for part in summary["token_slices"]["training frequency"]] == [
        ("1-9", 1), ("10-99", 2), ("100-999", 3), ("1000+", 22)]


def test_utterances_of_one_length_stay_together(tmp_path):
    rows = [row(2, utt_id=f"u{number}") for number in range(7)]
    assert "duration" not in write_summary(tmp_path / "summary.json", rows, "data/x")["slices"]  # one slice is no slice
