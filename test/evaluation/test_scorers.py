"""Metrics against values worked out by hand and against a plain dynamic programme."""

import random

import numpy as np
import pytest

from blspkd.config import TaskConfig
from blspkd.errors import ConfigError, DataError
from blspkd.evaluation.metrics import bootstrap_ratio, compute, count_edits, normalize, percent_true

TASK = TaskConfig()


def score(metric, hypotheses, references, task=TASK, **options):
    ids = [f"utt{number}" for number in range(len(hypotheses))]
    return {row.metric: row for row in compute(metric, ids, hypotheses, references, task, **options)}


def plain_edit_distance(hypothesis, reference):
    """Textbook Levenshtein distance between two sequences."""
    row = list(range(len(hypothesis) + 1))
    for i, wanted in enumerate(reference, 1):
        previous, row[0] = row[0], i
        for j, found in enumerate(hypothesis, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (wanted != found))
    return row[-1]


def test_wer_counts_substitutions_deletions_and_insertions_over_the_corpus():
    rows = score("wer", ["a x c d", "e", "f g h"], ["a b c", "e f", "f g h"])
    assert rows["wer"].value == pytest.approx(100 * 3 / 8)
    assert [rows[f"wer_{part}"].value for part in ("sub", "del", "ins")] == [pytest.approx(12.5)] * 3
    assert rows["wer_sent"].value == pytest.approx(100 * 2 / 3)
    assert {row.n for row in rows.values()} == {3}


def test_wer_of_a_rambling_answer_exceeds_100():
    assert score("wer", ["a b c d e"], ["x"])["wer"].value == pytest.approx(500)


def test_cer_counts_characters_with_spaces():
    assert score("cer", ["schon gut"], ["schön gut"])["cer"].value == pytest.approx(100 / 9)
    assert score("cer", ["schöngut"], ["schön gut"])["cer_del"].value == pytest.approx(100 / 9)


@pytest.mark.parametrize("characters", [False, True])
def test_edits_equal_the_textbook_distance(characters):
    draw = random.Random(1)
    texts = [" ".join(draw.choice("aab äß 好") for _ in range(draw.randint(1, 9))) for _ in range(120)]
    references = [" ".join(text.split()) or "a" for text in texts[:60]]
    hypotheses = [" ".join(text.split()) for text in texts[60:]]
    hypotheses[0] = ""
    edits = count_edits(hypotheses, references, characters)
    unit = list if characters else str.split
    expected = [plain_edit_distance(unit(h), unit(r)) for h, r in zip(hypotheses, references, strict=True)]
    assert edits.errors.tolist() == expected
    assert edits.reference.tolist() == [len(unit(reference)) for reference in references]


def test_an_empty_hypothesis_is_all_deletions():
    assert score("wer", [""], ["a b"])["wer_del"].value == pytest.approx(100)
    assert score("exact_match", [""], ["a b"])["exact_match"].value == 0
    assert score("bleu", [""], ["a b"])["bleu"].value == 0
    assert score("chrf", [""], ["a b"])["chrf"].value == 0


@pytest.mark.parametrize("metric", ["bleu", "chrf", "exact_match", "wer", "cer"])
@pytest.mark.parametrize("reference", ["", "  "])
def test_an_empty_reference_is_an_error_that_names_the_utterance(metric, reference):
    with pytest.raises(DataError, match="utt1"):
        score(metric, ["a", "b"], ["a", reference])


def test_a_reference_of_punctuation_alone_is_empty_only_where_text_is_normalised():
    with pytest.raises(DataError, match="utt0.*normalising"):
        score("wer", ["a"], ["..."])
    assert score("wer", ["..."], ["..."], TaskConfig(normalize=False))["wer"].value == 0
    score("bleu", ["..."], ["..."])


def test_no_utterance_at_all_is_an_error():
    with pytest.raises(DataError, match="no utterance"):
        score("wer", [], [])


@pytest.mark.parametrize("metric, perfect",
                         [("bleu", 100), ("chrf", 100), ("exact_match", 100), ("wer", 0), ("cer", 0)])
def test_one_perfect_utterance(metric, perfect):
    row = score(metric, ["die Katze saß auf der Matte"], ["die Katze saß auf der Matte"])[metric]
    assert row.value == pytest.approx(perfect)
    assert row.ci95 == pytest.approx((perfect, perfect))
    assert row.n == 1


def test_bleu_equals_the_formula_for_one_sentence():
    # "the cat sat on mat" against "the cat sat on the mat": precisions 5/5, 3/4, 2/3, 1/2; brevity exp(1 - 6/5).
    expected = 100 * np.exp(1 - 6 / 5) * (1 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert score("bleu", ["the cat sat on mat"], ["the cat sat on the mat"])["bleu"].value == pytest.approx(expected)


def test_bleu_sees_case_and_punctuation_and_says_so():
    row = score("bleu", ["Der Mann lacht laut ."], ["der Mann lacht laut ."])["bleu"]
    assert row.value < 100
    assert "case:mixed" in row.signature and "bs:1000" in row.signature and "tok:13a" in row.signature


def test_the_tokenizer_of_bleu_can_be_chosen_and_a_wrong_one_is_an_error():
    assert "tok:char" in score("bleu", ["你好"], ["你好"], TaskConfig(bleu_tokenize="char"))["bleu"].signature
    with pytest.raises(ConfigError, match="bleu_tokenize.*nosuch"):
        score("bleu", ["a"], ["a"], TaskConfig(bleu_tokenize="nosuch"))


def test_intervals_of_sacrebleu_lie_around_the_value():
    draw = random.Random(0)
    references = [" ".join(draw.choices(["der", "die", "Hund", "Katze", "lacht"], k=8)) for _ in range(60)]
    hypotheses = [r if draw.random() < 0.7 else r[: len(r) // 2] for r in references]
    for metric in ("bleu", "chrf"):
        row = score(metric, hypotheses, references)[metric]
        assert 0 < row.ci95[0] < row.value < row.ci95[1] < 100


def test_exact_match_ignores_case_punctuation_and_spaces():
    assert score("exact_match", [" Ten  Cats! ", "no"], ["ten cats", "yes"])["exact_match"].value == pytest.approx(50)
    assert score("exact_match", ["Ten"], ["ten"], TaskConfig(normalize=False))["exact_match"].value == 0


@pytest.mark.parametrize("text, expected", [
    ("Don't  stop,\tMary-Ann!", "dont stop mary ann"),
    ("DON’T", "dont"),
    ("Schöne Grüße — ÄÖÜ ß", "schöne grüße äöü ß"),
    ("Scho\u0308n", "schön"),  # composed and decomposed letters are the same
    ("你好，世界。", "你好 世界"),
    ("हिन्दी", "हिन्दी"),  # marks are part of the word
    ("$5 + 3", "$5 + 3"),
    ("...", ""),
])
def test_normalisation(text, expected):
    assert normalize(text) == expected


def test_normalising_twice_changes_nothing():
    for text in ("İstanbul’da", "ﬁne ½", "A\u00a0B", "ǅ"):
        assert normalize(normalize(text)) == normalize(text)


def test_the_bootstrap_depends_on_the_seed_alone():
    errors, totals = np.arange(50) % 4, np.full(50, 5)
    assert bootstrap_ratio(errors, totals, 300, seed=3) == bootstrap_ratio(errors, totals, 300, seed=3)
    assert bootstrap_ratio(errors, totals, 300, seed=3) != bootstrap_ratio(errors, totals, 300, seed=4)


def test_the_bootstrap_equals_a_plain_loop():
    errors, totals = np.array([0, 3, 1, 0, 2]), np.array([4, 5, 6, 7, 8])
    drawn = np.random.default_rng(7).integers(5, size=(40, 5))
    ratios = sorted(100 * sum(errors[i] for i in row) / sum(totals[i] for i in row) for row in drawn.tolist())

    def percentile(share):
        place = share * (len(ratios) - 1)
        below = int(place)
        return ratios[below] + (place - below) * (ratios[below + 1] - ratios[below])

    assert bootstrap_ratio(errors, totals, 40, seed=7) == pytest.approx((percentile(0.025), percentile(0.975)))


def test_the_interval_has_the_width_that_theory_expects():
    flags = np.arange(400) % 2 == 0
    row = percent_true("exact_match", flags, 2000, 0, "")
    assert row.value == pytest.approx(50)
    assert row.ci95[1] - row.ci95[0] == pytest.approx(2 * 1.96 * 100 * 0.5 / 20, rel=0.1)


def test_chrf_of_sentences_that_share_nothing_has_an_interval():
    """sacreBLEU's own bootstrap fails when some resamples score exactly 0."""
    result = score("chrf", ["zzz", "a b c", *["qq"] * 4], ["abc def", "a b c", *["xx yy"] * 4])["chrf"]
    assert 0 <= result.ci95[0] <= result.value <= result.ci95[1] <= 100
