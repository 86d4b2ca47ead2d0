"""Metrics against values worked out by hand and against a plain dynamic programme."""

import random

import numpy as np
import pytest

from blspkd.errors import ConfigError, DataError
from blspkd.evaluation.scorers import measure
from blspkd.evaluation.scorers.errors import CharacterErrorRate, WordErrorRate
from blspkd.evaluation.scorers.texts import normalize
from blspkd.evaluation_config import TaskConfig

TASK = TaskConfig()


def score(metric, hypotheses, references, task=TASK, **options):
    return {row.metric: row for row in measure(metric, rows(hypotheses, references), task, **options)}


def rows(hypotheses, references):
    """Of hyp.jsonl."""
    return [{"utt_id": f"utt{number}", "hypothesis": hypothesis, "reference": reference}
            for number, (hypothesis, reference) in enumerate(zip(hypotheses, references, strict=True))]


def plain_edit_distance(hypothesis, reference):
    """Textbook Levenshtein distance between two sequences."""
    row = list(range(len(hypothesis) + 1))
    for i, wanted in enumerate(reference, 1):
        previous, row[0] = row[0], i
        for j, found in enumerate(hypothesis, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (wanted != found))
    return row[-1]


def test_wer_counts_substitutions_deletions_and_insertions_over_the_corpus():
    scores = score("wer", ["a x c d", "e", "f g h"], ["a b c", "e f", "f g h"])
    assert scores["wer"].value == pytest.approx(100 * 3 / 8)
    assert [scores[f"wer_{part}"].value for part in ("sub", "del", "ins")] == [pytest.approx(12.5)] * 3
    assert scores["wer_sent"].value == pytest.approx(100 * 2 / 3)
    assert {found.n for found in scores.values()} == {3}


def test_wer_of_a_rambling_answer_exceeds_100():
    assert score("wer", ["a b c d e"], ["x"])["wer"].value == pytest.approx(500)


def test_cer_counts_characters_with_spaces():
    assert score("cer", ["schon gut"], ["schön gut"])["cer"].value == pytest.approx(100 / 9)
    assert score("cer", ["schöngut"], ["schön gut"])["cer_del"].value == pytest.approx(100 / 9)


@pytest.mark.parametrize("scorer, unit", [(WordErrorRate(), str.split), (CharacterErrorRate(), list)])
def test_edits_equal_the_textbook_distance(scorer, unit):
    draw = random.Random(1)
    texts = [" ".join(draw.choice("aab äß 好") for _ in range(draw.randint(1, 9))) for _ in range(120)]
    references = [" ".join(text.split()) or "a" for text in texts[:60]]
    hypotheses = [" ".join(text.split()) for text in texts[60:]]
    hypotheses[0] = ""
    errors, units, *_ = scorer.table(rows(hypotheses, references), TaskConfig(normalize=False)).T
    expected = [plain_edit_distance(unit(h), unit(r)) for h, r in zip(hypotheses, references, strict=True)]
    assert errors.tolist() == expected
    assert units.tolist() == [len(unit(reference)) for reference in references]


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


def test_chrf_of_sentences_that_share_nothing_has_an_interval():
    """sacreBLEU's own bootstrap fails when some resamples score exactly 0."""
    result = score("chrf", ["zzz", "a b c", *["qq"] * 4], ["abc def", "a b c", *["xx yy"] * 4])["chrf"]
    assert 0 <= result.ci95[0] <= result.value <= result.ci95[1] <= 100
