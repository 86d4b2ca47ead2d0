"""Reading `word_times`."""

import pytest

from blspkd.errors import DataError
from blspkd.kaldi.word_times import Word, read_word_times


def test_several_lines_make_one_utterance(tmp_path):
    path = tmp_path / "word_times"
    path.write_text("a 0.1 0.2 the\na 0.2 0.5 in the\nb 0 1e0 naïve\n", encoding="utf-8")
    assert read_word_times(path) == {"a": [Word(0.1, 0.2, "the"), Word(0.2, 0.5, "in the")], "b": [Word(0, 1, "naïve")]}


@pytest.mark.parametrize("lines, number", [
    ("a 0.1 0.2\n", 1), ("a 0.1 x the\n", 1), ("a 0.2 0.1 the\n", 1), ("a -1 0.1 the\n", 1), ("a 0 inf the\n", 1),
    ("a 0 1 the\na 0.5 2 cat\n", 2), ("a 0 1 the\nb 0 1 cat\na 1 2 ran\n", 3),
])
def test_a_line_that_is_none_is_named(tmp_path, lines, number):
    path = tmp_path / "word_times"
    path.write_text(lines)
    with pytest.raises(DataError, match=f"word_times:{number}: "):
        read_word_times(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="word_times"):
        read_word_times(tmp_path / "word_times")
