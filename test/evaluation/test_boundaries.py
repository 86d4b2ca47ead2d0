"""Tokens that end words, and how far their fires are from the words' ends."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blspkd.evaluation.boundaries import Boundary, errors_ms, word_boundaries
from blspkd.kaldi.word_times import Word

WORDS = [Word(0.1, 0.3, "the"), Word(0.3, 0.8, "lawyer"), Word(0.8, 1.1, "in the"), Word(1.1, 1.6, "zoo")]
TEXT = "the lawyer in the zoo"


def spans_of(text, pieces):
    """Character spans of `pieces`, which make up `text` when put together."""
    assert "".join(pieces) == text
    ends = np.cumsum([len(piece) for piece in pieces]).tolist()
    return list(zip([0, *ends], ends, strict=False))


def test_only_tokens_that_end_a_word_count_and_the_last_one_does_not():
    spans = spans_of(TEXT, ["the", " la", "wy", "er", " in", " the", " zoo"])
    assert word_boundaries(TEXT, spans, WORDS) == [Boundary(0, 0.3), Boundary(3, 0.8), Boundary(5, 1.1)]


def test_offsets_without_the_leading_blank_give_the_same():
    spans = [(0, 3), (4, 6), (6, 8), (8, 10), (11, 13), (14, 17), (18, 21)]
    assert [boundary.token for boundary in word_boundaries(TEXT, spans, WORDS)] == [0, 3, 5]


def test_a_token_that_reaches_into_the_next_word_is_no_boundary():
    assert word_boundaries(TEXT, spans_of(TEXT, ["the l", "awyer", " in", " the", " zoo"]), WORDS) == [
        Boundary(1, 0.8), Boundary(3, 1.1)]


def test_punctuation_belongs_to_the_word_before_it():
    text = "The lawyer, in the zoo."
    spans = spans_of(text, ["The", " lawyer,", " in", " the", " zoo", "."])
    assert word_boundaries(text, spans, WORDS) == [Boundary(0, 0.3), Boundary(1, 0.8), Boundary(3, 1.1),
                                                   Boundary(4, 1.6)]


def test_parts_of_one_character_end_with_the_last_of_them():
    assert word_boundaries("é a", [(0, 1), (0, 1), (1, 3)], [Word(0, 1, "é"), Word(1, 2, "a")]) == [Boundary(1, 1)]


@pytest.mark.parametrize("words", [WORDS[:-1], WORDS[1:], [*WORDS[:2], Word(0.8, 1.1, "on the"), WORDS[3]], []])
def test_words_that_are_not_the_transcript_give_nothing(words):
    assert word_boundaries(TEXT, spans_of(TEXT, ["the", " lawyer", " in", " the", " zoo"]), words) is None


@given(st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_every_word_but_the_last_has_a_boundary_where_tokens_respect_words(texts, data):
    pieces, last_pieces = [], []
    for number, text in enumerate(texts):
        cut = data.draw(st.integers(0, len(text) - 1)) if len(text) > 1 else 0
        piece = (" " if number else "") + text
        own = [part for part in (piece[:cut], piece[cut:]) if part.strip()]
        if "".join(own) != piece:
            own = [piece]
        pieces += own
        last_pieces.append(len(pieces) - 1)
    transcript = " ".join(texts)
    words = [Word(i, i + 1, text) for i, text in enumerate(texts)]
    found = word_boundaries(transcript, spans_of(transcript, pieces), words)
    assert found == [Boundary(token, i + 1) for i, token in enumerate(last_pieces[:-1])]


def test_errors_are_late_when_positive():
    errors = errors_ms([Boundary(0, 0.3), Boundary(2, 0.8)], [0.34, 0.5, 0.74, 0.9])
    assert errors == pytest.approx([40, -60])
