"""Which utterances a subset takes."""

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


@pytest.mark.parametrize("contents", [b"\xef\xbb\xbfann-2\n", b"ann-2\n../x\n", b"ann-2\nb\xe9b-1\n"])
def test_lists_that_hold_what_can_be_no_id_are_refused(make_dir, tmp_path, contents):
    (tmp_path / "list").write_bytes(contents)
    with pytest.raises(DataError, match=r"list:[12]: .*id .*(must not contain|not valid UTF-8)"):
        select.of_list(make_dir(), tmp_path / "list")
