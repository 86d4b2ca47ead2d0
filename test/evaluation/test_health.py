"""Output health: what counts as empty, looped, copied, of unknown words, and too long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blspkd.evaluation.scorers import HEALTH, measure_health
from blspkd.evaluation.scorers.health import Copied, Empty, Foreign, LengthRatio, Looped, longest_common_run
from blspkd.evaluation_config import TaskConfig


def row(hypothesis, reference="der Bauer kaufte sechs Taschen", transcript="the farmer bought six bags",
        instruction="Translate the following text into German."):
    return {"hypothesis": hypothesis, "reference": reference, "transcript": transcript, "instruction": instruction}


@pytest.mark.parametrize("text, empty", [("", True), (" ...\n", True), ("nein", False), ("+", False)])
def test_empty(text, empty):
    assert Empty().is_bad(row(text)) is empty


@pytest.mark.parametrize("text, looped", [
    ("the the the the", True), ("the the the", False), ("a b a b a b a b", True), ("x a b a b a b a y", False),
    ("the cat sat. The cat sat! the cat sat, the cat sat", True), ("", False), ("ha" * 15, True),
    ("1 2 3 4 5 6", False),
    (" ".join("abcdefgh" * 4), True), (" ".join("abcdefghi" * 4), False),
])
def test_looped(text, looped):
    assert Looped().is_bad(row(text)) is looped


def test_what_the_reference_repeats_is_no_loop():
    assert not Looped().is_bad(row("t t t t", reference="t t t t t"))


@pytest.mark.parametrize("text, copied", [
    ("Translate the following text into German.", True), ("translate the following bags", False),
    ("the farmer bought six bags", True), ("well, the farmer bought six", True), ("the farmer bought", False),
    ("der Bauer kaufte sechs Taschen", False),
])
def test_copied(text, copied):
    assert Copied().is_bad(row(text)) is copied


def test_repeating_is_no_copy_where_it_is_the_task():
    text = "the farmer bought six bags"
    assert not Copied().is_bad(row(text, reference=text, instruction="Repeat."))
    asked = "Repeat the following text."
    assert Copied().is_bad(row(f"{asked} {text}", reference=text, instruction=asked))


def test_words_of_no_reference():
    rows = [row("der Bauer kaufte apples", "der Bauer kaufte Brot"), row("Das Brot?", "das Haus")]
    assert Foreign().table(rows, TaskConfig()).tolist() == [[1, 4], [0, 2]]
    assert LengthRatio().table(rows, TaskConfig()).tolist() == [[4, 4], [2, 2]]


def test_score_gives_percentages():
    rows = [row("der Bauer kaufte sechs Taschen"), row(""), row("la la la la la la la la la la"),
            row("the farmer bought six bags")]
    scores = {item.metric: item for item in measure_health(rows, 50, 0)}
    assert set(scores) == set(HEALTH)
    assert {name: item.value for name, item in scores.items()} == {
        "empty": 25, "looped": 25, "copied": 25, "foreign": 75, "length_ratio": 100}
    assert all(item.ci95[0] <= item.value <= item.ci95[1] and item.signature for item in scores.values())
    assert scores["foreign"].n == 3  # utterances with words at all


def test_only_empty_answers_have_no_words_to_judge():
    assert {item.metric for item in measure_health([row("")], 10, 0)} == {"empty", "looped", "copied", "length_ratio"}


@given(st.text("ab", max_size=8), st.text("ab", max_size=8))
def test_longest_common_run_is_the_longest_common_piece(left, right):
    pieces = [left[i:j] for i in range(len(left)) for j in range(i, len(left) + 1)]
    assert longest_common_run(left, right) == max((len(piece) for piece in pieces if piece in right), default=0)
