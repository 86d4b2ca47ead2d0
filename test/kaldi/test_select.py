"""Which utterances a subset takes, and the figures of a directory."""

import pytest

from blspkd.errors import DataError
from blspkd.kaldi import select

IDS = ["ann-1", "ann-2", "bob-1", "bob-2", "bob-3", "cem-1"]


@pytest.mark.parametrize(("choose", "number", "chosen"), [
    (select.first, 2, IDS[:2]), (select.last, 2, IDS[-2:]), (select.spread, 3, IDS[::2]), (select.spread, 6, IDS),
    (select.per_speaker, 1, ["ann-1", "bob-1", "cem-1"]), (select.per_speaker, 2, ["ann-1", "ann-2", "bob-1", "bob-2",
                                                                                  "cem-1"]),
    (select.per_speaker, 9, IDS)])
def test_what_is_chosen(make_dir, choose, number, chosen):
    assert choose(make_dir(), number) == chosen


def test_the_shortest_need_durations(make_dir):
    with pytest.raises(DataError, match="utils/get_utt2dur.sh"):
        select.shortest(make_dir(), 2)


def test_the_shortest_are_those_by_utt2dur(make_dir):
    folder = make_dir(utt2dur=[f"{utt_id} {seconds}" for utt_id, seconds in zip(IDS, (3, 10, 2, 9, 2, 4), strict=True)])
    assert select.shortest(folder, 3) == ["bob-1", "bob-3", "ann-1"]


def test_speakers_come_whole_and_are_the_same_for_a_seed(make_dir):
    folder = make_dir()
    chosen = select.speakers(folder, 3)
    assert len(chosen) >= 3 and chosen == select.speakers(folder, 3)
    for speaker in {utt_id[:3] for utt_id in chosen}:
        assert {utt_id for utt_id in IDS if utt_id.startswith(speaker)} <= set(chosen)


def test_lists_choose_what_is_there(make_dir, tmp_path):
    folder = make_dir()
    (tmp_path / "list").write_text("cem-1 whatever\nnobody\nann-2\nbob\n")
    assert select.of_list(folder, tmp_path / "list") == ["ann-2", "cem-1"]
    assert select.of_speakers(folder, tmp_path / "list") == ["bob-1", "bob-2", "bob-3"]


@pytest.mark.parametrize("choose", [select.first, select.last, select.spread, select.shortest, select.speakers])
def test_more_than_there_are_or_none_are_refused(make_dir, choose):
    folder = make_dir(utt2dur=[f"{utt_id} 1" for utt_id in IDS])
    with pytest.raises(DataError, match="7 utterances are asked for, but there are only 6"):
        choose(folder, 7)
    with pytest.raises(DataError, match="at least one"):
        choose(folder, 0)


def test_stats(make_rich_dir, make_dir, tmp_path):
    stats = select.stats(make_rich_dir(utt2dur=[f"{utt_id} {index + 1}" for index, utt_id in enumerate(IDS)]))
    assert (stats.utterances, stats.speakers, stats.recordings) == (6, 3, 2)
    assert (stats.words, stats.distinct_words, stats.characters) == (24, 9, 114)
    assert (stats.total_duration, stats.min_duration, stats.median_duration, stats.max_duration) == (21, 1, 3.5, 6)
    assert stats.files["text.qa"] == 3 and stats.files["continuation"] == 5
    assert "hours" in str(stats) and "text.translate" in str(stats)


def test_stats_without_durations(make_dir):
    assert "run the verb durations" in str(select.stats(make_dir()))


@pytest.mark.parametrize("contents", [b"\xef\xbb\xbfann-2\n", b"ann-2\n../x\n", b"ann-2\nb\xe9b-1\n"])
def test_lists_that_hold_what_can_be_no_id_are_refused(make_dir, tmp_path, contents):
    (tmp_path / "list").write_bytes(contents)
    with pytest.raises(DataError, match=r"list:[12]: .*id .*(must not contain|not valid UTF-8)"):
        select.of_list(make_dir(), tmp_path / "list")


def test_figures_count_utterances_where_each_has_several_lines(make_dir):
    assert select.stats(make_dir(word_times=["ann-1 0 1 a", "ann-1 1 2 b"])).files == {"word_times": 1}


@pytest.mark.parametrize("files", [{"utt2lang": "ann-1 en\nann-1 de\n"}, {"word_times": "ann-1 early late some\n"}])
def test_figures_of_tables_that_are_not_in_order_are_refused(make_dir, files):
    with pytest.raises(DataError, match="utt2lang:2|word_times:1"):
        select.stats(make_dir(**files))
