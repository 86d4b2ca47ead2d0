"""R of continuations by rules, and the verb that writes `utt2score`."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blspkd.bin.data_dir import main
from blspkd.errors import ConfigError
from blspkd.evaluation.continuation_scores import RULES, score
from blspkd.kaldi.tables import read_table

TEXT = "the farmer sold six red bags in the park"


def r(text, *others, transcript=TEXT, instructions=(), rules=("empty", "looped", "copied")):
    texts = {str(number): one for number, one in enumerate((text, *others))}
    return score(texts, dict.fromkeys(texts, transcript), instructions, rules).scores["0"]


@pytest.mark.parametrize(("text", "expected"), [
    ("so he had a lot of money", 1.0), (" ...", 0.0), ("", 0.0), ("and then and then and then and then", 0.0),
    ("and then and then and then", 1.0), ("yes: the farmer sold six red bags", 0.0), ("six red bags cost a lot", 1.0),
    ("Continue the following text", 0.0)])
def test_bad_is_what_is_bad_in_answers(text, expected):
    assert r(text, instructions=["Repeat.", "Continue the following text."]) == expected


def test_length_is_the_ratio_to_the_median_of_what_is_not_refused():
    others = ["one two three four", "one two three four", "ha ha ha ha ha ha ha ha ha ha ha ha"]
    lengths = {"one two three four": 1.0, "one two": 0.5, "one two three four five six seven eight": 0.5, "": 0.0}
    for text, expected in lengths.items():
        assert r(text, *others, rules=("looped", "length")) == expected


def test_foreign_is_the_share_of_words_that_some_transcript_has():
    assert r("the farmer kaufte Taschen", rules=("foreign",)) == 0.5
    assert r("", rules=("foreign",)) == 0.0


@given(st.lists(st.text("ab c.", max_size=20), min_size=1, max_size=5), st.sets(st.sampled_from(RULES)))
def test_scores_are_shares_whatever_was_written(texts, rules):
    table = {str(number): text for number, text in enumerate(texts)}
    found = score(table, dict.fromkeys(table, "a b c"), ["b"], sorted(rules))
    assert found.scores.keys() == table.keys() and all(0 <= value <= 1 for value in found.scores.values())


def test_an_unknown_rule_names_the_nearest():
    with pytest.raises(ConfigError, match="there is no 'loopd'; did you mean 'looped'"):
        score({"a": "b"}, {"a": "c"}, rules=["loopd"])


def test_the_verb_writes_a_table_for_every_continuation(data_dir, capsys):
    folder = Path(data_dir)
    lines = (folder / "continuation").read_text().splitlines()
    lines[0] = f"{lines[0].split()[0]} {json.dumps('no no no no no no')}"
    (folder / "continuation").write_text("\n".join(lines[:-1]) + "\n")
    main(["score", data_dir])
    table = read_table(folder / "utt2score")
    assert list(table) == [line.split()[0] for line in lines[:-1]]
    assert table[lines[0].split()[0]] == "0.0000" and float(table[lines[1].split()[0]]) > 0
    assert "11 scores" in capsys.readouterr().out
    main(["score", data_dir, "--rules", "foreign", "--table", "utt2score_foreign"])
    assert (folder / "utt2score_foreign").is_file()
    with pytest.raises(SystemExit):
        main(["score", data_dir, "--rules", "lenght"])
    assert "there is no 'lenght'; did you mean 'length'" in capsys.readouterr().err
    (folder / "continuation").unlink()
    with pytest.raises(SystemExit):
        main(["score", data_dir])
    assert "continuation: cannot be read" in capsys.readouterr().err
