"""Good and bad by scores: what is left out, tagged, weighted or marked, and what scores are refused."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blspkd.config import DataConfig, PromptConfig
from blspkd.data.examples import make_examples
from blspkd.data.operations import apply_operations, make_operations
from blspkd.data.operations.prefer import reward_weights
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.errors import ConfigError, DataError
from blspkd.kaldi.data_dir import KaldiDir, read_continuations

# twelve utterances: spk0-utt000, spk0-utt002 ..., spk1-utt001, ...
SCORES = [0.0, 0.5, 1.0, 0.25, 0.75, 0.1, 0.9, 0.3, 0.4, 0.6, 0.05, 0.8]


@pytest.fixture
def prompt(tiny_llm):
    return Prompt(load_tokenizer(tiny_llm), PromptConfig("Continue:"))


@pytest.fixture
def given_scores(data_dir, prompt):
    """apply(scores, seed=0, **options) -> the examples before and after, and the report."""
    data = KaldiDir.read(data_dir)
    before = make_examples(data, read_continuations(data.path / "continuation"), prompt, DataConfig()).examples

    def apply(scores=SCORES, seed=0, examples=before, **options):
        ids = [example.utt_id for example in before]
        lines = [f"{utt_id} {score}\n" for utt_id, score in zip(ids, scores, strict=False)]
        (data.path / "utt2score").write_text("".join(lines))
        after, record = apply_operations([{"name": "prefer", **options}], examples, data, seed, prompt)
        return before, after, record["operations"][0]["report"]
    return apply


def is_bad(score, quantile=0.3):
    return score < np.quantile(SCORES, quantile)


def test_kept_and_dropped_are_all_and_what_is_dropped_is_below_the_quantile(given_scores):
    before, after, report = given_scores(mode="filter", quantile=0.3)
    [dropped] = report.values()
    assert after == [example for example, score in zip(before, SCORES, strict=True) if not is_bad(score)]
    assert sorted(dropped + [example.utt_id for example in after]) == [example.utt_id for example in before]
    assert len(dropped) == 4 and "score below" in next(iter(report))  # 0, 0.05, 0.1 and 0.25


def test_a_quantile_of_0_leaves_all_as_it_is(given_scores):
    for mode in ("filter", "mark"):
        before, after, report = given_scores(mode=mode, quantile=0)
        assert [replace(example, score=None) for example in after] == before and not report


def test_tags_are_words_in_front_of_the_instruction_that_teacher_and_student_read(given_scores, prompt):
    before, after, report = given_scores(mode="tag", untagged=0)
    for old, new, score in zip(before, after, SCORES, strict=True):
        word = "bad" if is_bad(score) else "good"
        ids = prompt.split(prompt.tokenizer.decode(old.input), f"{word} Continue:")
        assert new.tags == (("quality", word),)
        assert [new.prefix.tolist(), new.input.tolist(), new.suffix.tolist()] == [ids.prefix, ids.input, ids.suffix]
        assert new.response is old.response and word in prompt.tokenizer.decode(new.prefix)
    assert len({id(example.prefix) for example in after}) == 2 and "untagged" not in report


def test_some_examples_have_no_tag_by_the_seed(given_scores):
    before, after, report = given_scores(mode="tag", untagged=0.4, seed=1)
    untagged = [new for old, new in zip(before, after, strict=True) if new is old]
    assert [example.utt_id for example in untagged] == report["untagged"] and 0 < len(untagged) < 12
    assert given_scores(mode="tag", untagged=0.4, seed=1)[2] == report
    assert given_scores(mode="tag", untagged=0.4, seed=2)[2] != report


def test_one_per_cent_are_untagged_unless_it_says_otherwise(given_scores, monkeypatch):
    [operation] = make_operations([{"name": "prefer", "mode": "tag"}])
    assert operation.options.untagged == 0.01


@pytest.mark.parametrize("beta", [0.05, 0.2, 1.0, 1e-4])
def test_weights_are_the_formula_and_their_mean_is_1(given_scores, beta):
    _, after, _ = given_scores(mode="weight", beta=beta)
    raw = [min(math.exp(min(score / beta, 700)), 1000) for score in SCORES]
    expected = [value / (sum(raw) / len(raw)) for value in raw]
    assert [example.weight for example in after] == pytest.approx(expected, rel=1e-12)


@given(st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=40), st.floats(1e-6, 1e6))
def test_weights_are_positive_finite_in_the_order_of_the_scores_and_1_on_average(scores, beta):
    weights = reward_weights(np.array(scores), beta)
    assert np.isfinite(weights).all() and (weights > 0).all() and weights.mean() == pytest.approx(1)
    assert (np.diff(weights[np.argsort(scores)]) >= 0).all() and weights.max() / weights.min() <= 1000 * (1 + 1e-9)


@given(st.floats(0, 1, allow_subnormal=False), st.integers(1, 5000), st.floats(1e-3, 1e3))
def test_equal_scores_are_weights_of_exactly_1_in_float32(score, count, beta):
    assert (reward_weights(np.full(count, score), beta).astype(np.float32) == 1).all()


def test_marks_tell_the_terms_and_change_nothing_else(given_scores):
    before, after, _ = given_scores(mode="mark")
    assert [(example.score, example.is_bad) for example in after] == [(score, is_bad(score)) for score in SCORES]
    assert [replace(example, score=None, is_bad=False) for example in after] == before


def test_what_an_operation_put_on_examples_is_in_the_record(data_dir, given_scores, prompt):
    def record(scores, **options):
        before, _, _ = given_scores(scores, **options)
        return apply_operations([{"name": "prefer", **options}], before, KaldiDir.read(data_dir), 0, prompt)[1]

    for mode in ("weight", "mark", "tag"):
        records = [record(scores, mode=mode)["examples"] for scores in (SCORES, SCORES, SCORES[::-1])]
        assert records[0] == records[1] != records[2]


def test_an_alignment_has_no_responses_and_stays_as_it_is(given_scores):
    before, _, _ = given_scores()
    examples = [replace(example, response=np.zeros(0, dtype=np.int32)) for example in before]
    for mode in ("filter", "tag", "weight", "mark"):
        assert given_scores([], examples=examples, mode=mode)[1] == examples


@pytest.mark.parametrize(("scores", "message"), [
    (SCORES[:-1], r"utt2score: 1 utterances have no score, the first is spk1-utt011"),
    ([*SCORES[:2], "nan", *SCORES[3:]], r"utt2score:3: spk0-utt004: 'nan' is no score"),
    ([*SCORES[:2], 1.5, *SCORES[3:]], r"utt2score:3: spk0-utt004: '1.5' is no score"),
    ([-0.1, *SCORES[1:]], r"utt2score:1: spk0-utt000: '-0.1' is no score"),
    (["fine", *SCORES[1:]], r"utt2score:1: spk0-utt000: 'fine' is no score"),
    ([0.5] * 12, r"utt2score: no score is below the 0.3 quantile, which is 0.5"),
    ([0] * 6 + [1] * 6, r"utt2score: no score is below the 0.3 quantile, which is 0"),
])
def test_scores_that_cannot_be_used_name_file_line_and_utterance(given_scores, scores, message):
    with pytest.raises(DataError, match=message):
        given_scores(scores)


def test_a_missing_table_is_named_and_another_one_can_be(data_dir, given_scores):
    with pytest.raises(DataError, match="utt2score_random: cannot be read"):
        given_scores(table="utt2score_random")
    Path(data_dir, "utt2score_random").write_text(Path(data_dir, "utt2score").read_text())
    assert given_scores(table="utt2score_random")[1] == given_scores()[1]


@pytest.mark.parametrize(("options", "message"), [
    ({"mode": "filtr"}, "mode: 'filtr' is not one of filter, tag, weight, mark; did you mean 'filter'"),
    ({"quantil": 0.3}, "unknown key 'quantil'; did you mean 'quantile'"),
    ({"quantile": 1}, "quantile: 1 is no share"), ({"quantile": "nan"}, "quantile: nan is no share"),
    ({"beta": 0}, "beta: 0 is not a positive number"), ({"untagged": -1}, "untagged: -1 is no share"),
    ({"table": "scores"}, "table: 'scores': tables of utterances are called utt2<what>"),
])
def test_options_that_cannot_be_are_told(options, message):
    with pytest.raises(ConfigError) as error:
        make_operations([{"name": "prefer", **options}], "train.yaml")
    assert message in str(error.value)
