"""Transcripts in the training text's style."""

import pytest

from blspkd.evaluation.transcript_style import TranscriptStyle

AN4 = ["enter thirty five", "p h i l l i p s", "v a d r one oh seven", "september fifteenth nineteen sixty five",
       "three four eight zero two nine", "repeat yes no help oh six january twentieth", "The tailor ordered a lamp."]


@pytest.mark.parametrize("written, expected", [
    ("Enter 35.", "enter thirty five"), ("Enter thirty-five.", "enter thirty five"), ("PHIL-IPS", "p h i l i p s"),
    ("P-H-I-L-L-I-P-S", "p h i l l i p s"), ("P. H. I. L.", "p h i l"), ("VADR 107", "v a d r one oh seven"),
    ("September 15, 1965.", "september fifteen nineteen sixty five"),
    ("September 15th, 1965", "september fifteenth nineteen sixty five"), ("3-4-8-0.", "three four eight oh"),
    ("348 02", "three four eight oh two"), ("January 20th", "january twentieth"),
    ("The tailor ordered a lamp.", "The tailor ordered a lamp."), ("It's 3 o'clock.", "It's three o'clock."),
    ("", ""), ("Yes. No!", "yes no"), ("help", "help"), ("1st 3rd 12th 40th", "first third twelfth fortieth"),
])
def test_whisper_s_style_becomes_that_of_the_training_text(written, expected):
    style = TranscriptStyle.of(AN4 + ["fifteen first third twelfth fortieth"])
    assert style.apply(written) == expected


def test_a_text_with_figures_punctuation_and_capitals_keeps_them():
    style = TranscriptStyle.of(["It cost 35 dollars.", "The NATO summit of 1999."])
    for text in ("The UN has 193 members.", "Page 7"):
        assert style.apply(text) == text


def test_what_is_in_the_style_stays():
    style = TranscriptStyle.of(AN4)
    for text in AN4:
        assert style.apply(text) == text
