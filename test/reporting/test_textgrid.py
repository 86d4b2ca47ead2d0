"""TextGrids are read back by a tiny reader of Praat's long text format."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blspkd.bin import textgrid
from blspkd.errors import DataError
from blspkd.reporting.textgrid import fill, tiers_of, write_textgrid


def read(path):
    """{tier: [(start, end, text)]} and the duration."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = ')
    duration = float(re.search(r"^xmax = (\S+)$", text, re.MULTILINE)[1])
    tiers = {}
    blocks = re.split(r"^    item \[\d+\]:\n", text, flags=re.MULTILINE)[1:]
    assert int(re.search(r"^size = (\d+)$", text, re.MULTILINE)[1]) == len(blocks)
    for block in blocks:
        name = re.search(r'name = "(.*)"\n', block)[1].replace('""', '"')
        found = re.findall(r'intervals \[\d+\]:\n +xmin = (\S+)\n +xmax = (\S+)\n +text = "((?:[^"]|"")*)"\n', block)
        assert int(re.search(r"intervals: size = (\d+)", block)[1]) == len(found)
        tiers[name] = [(float(start), float(end), text.replace('""', '"')) for start, end, text in found]
    return tiers, duration


def covers(intervals, duration):
    return (intervals[0][0] == 0 and intervals[-1][1] == duration and all(start < end for start, end, _ in intervals)
            and all(before[1] == after[0] for before, after in zip(intervals, intervals[1:], strict=False)))


ROW = {"utt_id": "u", "duration": 1.5, "tokens": ["the", " \"lawyer\"", " 語"], "fire_times": [0.3, 0.9, 1.4],
       "fire_times_true": [0.3, 0.9, 1.4], "words": [[0.1, 0.32, "the"], [0.32, 0.8, "lawyer"], [0.9, 1.6, "語"]]}


def test_tokens_and_words_come_back(tmp_path):
    write_textgrid(tmp_path / "u.TextGrid", 1.5, tiers_of(ROW))
    tiers, duration = read(tmp_path / "u.TextGrid")
    assert duration == 1.5
    assert tiers == {"tokens": [(0, 0.3, "the"), (0.3, 0.9, '"lawyer"'), (0.9, 1.4, "語"), (1.4, 1.5, "")],
                     "words": [(0, 0.1, ""), (0.1, 0.32, "the"), (0.32, 0.8, "lawyer"), (0.8, 0.9, ""),
                               (0.9, 1.5, "語")]}


def test_tokens_are_numbered_when_there_are_more_or_fewer_than_in_the_text():
    tiers = tiers_of({**ROW, "fire_times": [0.5, 1.4]})
    assert [text for *_, text in tiers["tokens"]] == ["1", "2"]
    assert [text for *_, text in tiers["tokens (true number)"]] == ["the", '"lawyer"', "語"]


def test_a_tier_without_cif_or_without_word_times_is_left_out(tmp_path):
    assert list(tiers_of({key: ROW[key] for key in ("duration", "tokens", "words")})) == ["words"]
    with pytest.raises(DataError, match="nothing to write"):
        write_textgrid(tmp_path / "u.TextGrid", 1.5, tiers_of({"tokens": []}))


# training flushes subnormal numbers to zero, also for tests that follow in its process
@given(st.lists(st.floats(0, 3, allow_subnormal=False), max_size=12), st.floats(0.001, 3, allow_subnormal=False))
def test_intervals_cover_everything_without_gaps(times, duration):
    times = sorted(times)
    intervals = [(start, end, "x") for start, end in zip(times[::2], times[1::2], strict=False)]
    assert covers(fill(intervals, duration), round(duration, 5))


def test_the_command_writes_one_file_per_utterance(tmp_path, capsys):
    folder = tmp_path / "exp" / "align_test"
    folder.mkdir(parents=True)
    words = ["--exp_dir", str(tmp_path / "exp"), "--set", "test", "--output_dir", str(tmp_path / "grids")]
    with pytest.raises(SystemExit):
        textgrid.main(words)
    assert "measure first" in capsys.readouterr().err
    (folder / "utterances.jsonl").write_text("".join(json.dumps({**ROW, "utt_id": key}) + "\n" for key in "ab"))
    (folder / "align.json").write_text("{}")
    textgrid.main([*words, "--utt_ids", "b"])
    assert [path.name for path in (tmp_path / "grids").iterdir()] == ["b.TextGrid"]
    textgrid.main(words)
    assert len(list((tmp_path / "grids").iterdir())) == 2
    with pytest.raises(SystemExit):
        textgrid.main([*words, "--utt_ids", "c"])
    assert "c was not measured" in capsys.readouterr().err
