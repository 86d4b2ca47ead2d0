"""Transcripts in the training text's style."""

import pytest

from blspkd.evaluation.transcript_style import TranscriptStyle

AN4 = ["enter thirty five", "p h i l l i p s", "v a d r one oh seven", "september fifteenth nineteen sixty five",
       "three four eight zero two nine", "repeat yes no help oh six january twentieth"]
BOOKS = ["The tailor ordered a lamp.", "The old lady waited for it."]


@pytest.mark.parametrize("written, expected", [
    ("Enter 35.", "enter thirty five"), ("Enter thirty-five.", "enter thirty five"), ("PHIL-IPS", "p h i l i p s"),
    ("P-H-I-L-L-I-P-S", "p h i l l i p s"), ("P. H. I. L.", "p h i l"), ("VADR 107", "v a d r one oh seven"),
    ("September 15, 1965.", "september fifteen nineteen sixty five"),
    ("September 15th, 1965", "september fifteenth nineteen sixty five"), ("3-4-8-0.", "three four eight oh"),
    ("348 02", "three four eight oh two"), ("January 20th", "january twentieth"), ("", ""), ("...", ""),
    ("The tailor ordered a lamp.", "The tailor ordered a lamp."), ("Yes. No!", "yes no"), ("help", "help"),
    ("1st 3rd 12th 40th 21st", "first third twelfth fortieth twenty first"), ("B12", "b twelve"),
    ("Enter 3.5", "enter three point five"), ("10:30 10:05 10:00", "ten thirty ten oh five ten"),
    ("January 2005", "january two thousand five"), ("January 1905", "january nineteen oh five"),
    ("January 2021", "january twenty twenty one"), ("Enter 100", "enter one oh oh"),
    ("$5 50%", "five dollars fifty percent"),
    ("555-1234.", "five five five one two three four"), ("Repeat, zyzzyva!", "repeat zyzzyva"),
    ("$1,000 and $1,234.56", "one thousand dollars and one thousand two hundred thirty four point five six dollars"),
    ("21ST 3RD", "twenty first third"), ("don\u2019t stop", "don't stop"),
    ("2000 1900", "two thousand nineteen hundred"),
    ("10-15 people", "ten fifteen people"), ("1" * 37, " ".join(["one"] * 37)),
    ("1" * 37 + ".5", " ".join(["one"] * 37 + ["five"])),
])
def test_whisper_s_style_becomes_that_of_the_training_text(written, expected):
    assert TranscriptStyle.of(AN4 + BOOKS).apply(written) == expected


@pytest.mark.parametrize("texts, expected", [
    (AN4, "an unknown lady's o'clock"),  # wholly in lower case: whatever is said
    ([text.upper() for text in AN4], "AN UNKNOWN LADY'S O'CLOCK"), (BOOKS, "An unknown lady's o'clock."),
    (BOOKS + AN4[:1], "An unknown lady's o'clock."), ([], "An unknown lady's o'clock."),
])
def test_case_and_punctuation_are_those_of_the_training_text(texts, expected):
    assert TranscriptStyle.of(texts).apply("An unknown lady's o'clock.") == expected


def test_numbers_are_said_as_the_training_text_says_them():
    style = TranscriptStyle.of(["it weighs three hundred pounds", "two thousand people came"])
    assert style.apply("It weighs 1,250 pounds.") == "it weighs one thousand two hundred fifty pounds"
    assert style.apply("There were 100.") == "there were one hundred"


def test_a_recogniser_without_case_spells_nothing_by_its_capitals():
    style = TranscriptStyle.of(AN4)
    assert style.restyle({"a": "ENTER NOW", "b": "SAY P H I L PLEASE", "c": "NO"}) == {
        "a": "enter now", "b": "say p h i l please", "c": "no"}
    assert style.restyle({"a": "ENTER NOW", "b": "YES", "c": "HELP"}) == {"a": "enter now", "b": "yes", "c": "help"}
    assert style.restyle({"a": "Enter now.", "b": "Say PHIL please.", "c": "NO"}) == {
        "a": "enter now", "b": "say p h i l please", "c": "n o"}
    assert style.restyle({"a": "3 4 8", "b": "7 0 1.", "c": "Enter PHILLIPS."})["c"] == "enter p h i l l i p s"


def test_one_contraction_before_a_letter_is_no_spelling():
    style = TranscriptStyle.of(["It's a B today.", *["The tailor ordered a lamp."] * 300])
    assert style.apply("OK, I saw NASA on TV.") == "OK, I saw NASA on TV."


def test_lower_case_with_punctuation_is_a_style():
    assert TranscriptStyle.of(["enter thirty five, please.", "say no!"]).apply("Enter 35, Please.") == (
        "enter thirty five, please.")


def test_a_text_with_figures_punctuation_and_capitals_keeps_them():
    style = TranscriptStyle.of(["It cost 35 dollars.", "The NATO summit of 1999."])
    for text in ("The UN has 193 members.", "Page 7"):
        assert style.apply(text) == text


def test_what_is_in_the_style_stays():
    style = TranscriptStyle.of(AN4 + BOOKS)
    for text in AN4 + BOOKS:
        assert style.apply(text) == text
