"""`fix` leaves a valid directory, says what it removed, keeps a backup, and changes nothing that was in order."""

import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blspkd.errors import DataError
from blspkd.kaldi.check import validate
from blspkd.kaldi.fix import fix, spk2utt
from blspkd.kaldi.tables import read_table

IDS = ["ann-1", "ann-2", "bob-1", "bob-2", "bob-3", "cem-1"]
TEXT = [f"{utt_id} words" for utt_id in IDS]


def contents(folder) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_directory_in_order_is_left_alone(make_dir, make_rich_dir):
    for folder in (make_dir(), make_rich_dir()):
        before = contents(folder)
        assert fix(folder) == []
        assert contents(folder) == before


def test_what_looks_like_an_unusual_separator_is_left_alone(make_dir):
    folder = make_dir(text=[line.replace(" ", "\t  ", 1) for line in TEXT])
    before = contents(folder)
    assert fix(folder) == []
    assert contents(folder) == before


@pytest.mark.parametrize(("files", "kept", "told"), [
    ({"text": TEXT[::-1]}, IDS, "text: not sorted mended"),
    ({"text": "\ufeff" + "\r\n".join(TEXT)}, IDS, "text: carriage return mended: line 1"),
    ({"text": ["", *TEXT]}, IDS, "text: blank line mended: line 1"),
    ({"text": [*TEXT, TEXT[-1]]}, IDS, "text: duplicate id removed: line 7"),
    ({"text": [*TEXT, "cem-1 other"]}, IDS[:-1], "text: 1 with contradicting lines removed: cem-1"),
    ({"text": TEXT[1:]}, IDS[1:], "1 utterances that are not in text removed: ann-1"),
    ({"text": ["ann-1", *TEXT[1:]]}, IDS[1:], "text: no value removed: line 1"),
    ({"text": b"ann-1 caf\xe9\n" + "\n".join(TEXT[1:]).encode()}, IDS[1:], "text: invalid UTF-8 removed: line 1"),
    ({"text": ["../x y", *TEXT]}, IDS, "text: bad id removed: line 1: id '../x' must not contain '/'"),
    ({"text": ["aaa-1 y", *TEXT]}, IDS, "1 utterances that are not in utt2spk removed: aaa-1"),
    ({"utt2spk": ["ann-1 x"]}, IDS[:1], "5 utterances that are not in utt2spk removed: ann-2"),
    ({"utt2spk": None}, IDS, "utt2spk: made from spk2utt"),
    ({"spk2utt": None}, IDS, "written anew: spk2utt"),
    ({"spk2utt": ["x ann-1"]}, IDS, "written anew: spk2utt"),
    ({"text__qa": [*TEXT, "dan-1 x"]}, IDS, "text.qa: 1 not in the directory's utterances: dan-1"),
    ({"utt2dur": ["ann-1 nan"]}, IDS, "utt2dur: bad value removed: line 1"),
    ({"continuation": ['ann-1 "x"', "ann-2 y"]}, IDS, "continuation: bad value removed: line 2"),
])
def test_each_kind_is_mended_and_told(make_dir, files, kept, told):
    folder = make_dir(**files)
    before = contents(folder)
    done = fix(folder)
    assert told in "\n".join(done)
    assert validate(folder) == []
    assert list(read_table(folder / "utt2spk")) == kept
    after = contents(folder)
    for name, data in before.items():
        assert after[name] == data or after[f".backup/{name}"] == data
    assert fix(folder) == []


@pytest.fixture
def blank_names(make_dir):
    """What a script makes of the files `track 1.wav` ... that takes their names as ids."""
    ids = [f"track {number}" for number in range(1, 4)]
    return make_dir(wav__scp=[f"{utt_id} /audio/{utt_id}.wav" for utt_id in ids], spk2utt=None,
                    text=[f"{utt_id} words" for utt_id in ids], utt2spk=[f"{utt_id} {utt_id}" for utt_id in ids])


def test_ids_with_blanks_are_told_as_such(blank_names):
    with pytest.raises(DataError) as raised:
        fix(blank_names)
    assert ("utt2spk: more than an id and a speaker (ids hold no blanks; replace those of file names) removed: line 1, "
            "line 2, line 3") in str(raised.value)


def test_a_single_id_with_a_blank_is_told_as_such(make_dir):
    folder = make_dir(utt2spk=[f"{utt_id} {utt_id[:3]}" for utt_id in IDS] + ["track 1 track 1"])
    assert ("utt2spk: more than an id and a speaker (ids hold no blanks; replace those of file names) removed: line 7"
            ) in fix(folder)
    assert list(read_table(folder / "utt2spk")) == IDS


def test_missing_audio_takes_its_utterances_along(make_dir, tmp_path):
    (tmp_path / "empty.wav").touch()
    folder = make_dir()
    lines = (folder / "wav.scp").read_text().splitlines()
    lines[1:3] = "ann-2 nowhere.wav", f"bob-1 {tmp_path}/empty.wav"
    (folder / "wav.scp").write_text("\n".join(lines))
    assert "wav.scp: 2 without audio file removed: ann-2, bob-1" in fix(folder)
    assert list(read_table(folder / "text")) == ["ann-1", "bob-2", "bob-3", "cem-1"]
    assert read_table(folder / "spk2utt")["ann"] == "ann-1"


def test_segments_of_bad_recordings_go(make_rich_dir):
    folder = make_rich_dir(text__de=[f"{utt_id} x" for utt_id in IDS])
    (folder.parent / "audio" / "rec1.wav").unlink()
    fix(folder)
    assert validate(folder) == []
    for name in ("text", "segments", "instruction", "text.de", "utt2lang", "continuation"):
        assert list(read_table(folder / name)) == IDS[3:], name


def test_utterances_can_be_removed_by_name(make_dir):
    folder = make_dir()
    assert any("as asked: ann-1, bob-2" in line for line in fix(folder, remove=["ann-1", "bob-2", "nobody"]))
    assert list(read_table(folder / "wav.scp")) == ["ann-2", "bob-1", "bob-3", "cem-1"]


def test_backups_never_replace_older_backups(make_dir):
    folder = make_dir()
    for utt_id in ("ann-1", "ann-2", "bob-1"):
        fix(folder, remove=[utt_id])
    assert [len(read_table(folder / ".backup" / name)) for name in ("text", "text.1", "text.2")] == [6, 5, 4]


def test_nothing_changes_if_nothing_would_be_left(make_dir):
    folder = make_dir(text=["dan-1 x"])
    before = contents(folder)
    with pytest.raises(DataError, match="no utterance would be left"):
        fix(folder)
    assert contents(folder) == before


def test_only_data_directories_are_fixed(tmp_path):
    with pytest.raises(DataError, match="is no data directory"):
        fix(tmp_path)


lines = st.lists(st.sampled_from([*TEXT, "ann-1", "dan-1 x", "", "-x y", "bob-1 other", "\ufeff", "a\tb c",
                                  "cem-1 \x07", "bob-2 words\r"]), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=lines, utt2spk=st.none() | st.lists(st.sampled_from([f"{utt_id} {utt_id[:3]}" for utt_id in IDS])))
def test_fixed_once_is_fixed(make_dir, tmp_path, text, utt2spk):
    shutil.rmtree(tmp_path / "any", ignore_errors=True)
    shutil.rmtree(tmp_path / "audio", ignore_errors=True)
    folder = tmp_path / "any"
    folder.mkdir()
    for name, rows in (("text", text), ("utt2spk", utt2spk or [f"{utt_id} {utt_id[:3]}" for utt_id in IDS])):
        (folder / name).write_text("\n".join(rows) + "\n")
    try:
        fix(folder)
    except DataError as error:
        assert "no utterance would be left" in str(error)
        return
    assert validate(folder, need_audio=False) == []
    after = contents(folder)
    assert fix(folder) == []
    assert contents(folder) == after


pieces = st.sampled_from([b"ann-1", b"bob-2 words", b" ", b"\t", b"\n", b"\r\n", b"\xef\xbb\xbf", b"\xff", b"\0",
                          b"x/y", "n\u00e9".encode(), "\u3000".encode(), b"cem-1 a b", b"ann ann-1", b"-1 0 1"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables=st.dictionaries(st.sampled_from(["text", "utt2spk", "spk2utt", "wav.scp", "segments", "utt2dur",
                                               "text.qa", "reco2channel", "continuation"]),
                              st.lists(pieces | st.binary(max_size=6), max_size=8).map(b"".join)))
def test_any_bytes_are_fixed_or_refused_and_nothing_is_lost(make_dir, tmp_path, tables):
    for name in ("any", "audio"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    folder = make_dir("any")
    for name, data in tables.items():
        (folder / name).write_bytes(data)
    before = contents(folder)
    problems = validate(folder)
    try:
        done = fix(folder)
    except DataError as error:
        assert "no utterance would be left" in str(error) and problems
        assert contents(folder) == before
        return
    assert not [problem for problem in validate(folder) if problem.kind != "missing file"]
    assert bool(done) >= bool(problems)
    after = contents(folder)
    assert all(after[name] == data or after[f".backup/{name}"] == data for name, data in before.items())
    assert fix(folder) == [] and contents(folder) == after


def test_spk2utt_is_utt2spk_turned_round():
    assert spk2utt({"b-2": "b", "a-1": "a", "b-1": "b"}) == {"a": "a-1", "b": "b-1 b-2"}


def test_a_speaker_that_can_be_no_id_goes(make_dir):
    folder = make_dir(utt2spk=["ann-1 ../x", "ann-2 -rf", "bob-1 $(reboot)", "bob-2 bob", "bob-3 bob", "cem-1 c;em"])
    assert {problem.kind for problem in validate(folder) if problem.file == "utt2spk"} == {"bad value"}
    assert "ann-1, ann-2, bob-1, cem-1" in "\n".join(fix(folder))
    assert validate(folder) == [] and read_table(folder / "utt2spk") == {"bob-2": "bob", "bob-3": "bob"}


def test_what_belongs_to_others_goes_everywhere(make_rich_dir):
    folder = make_rich_dir(word_times=[f"{utt_id} {start} {start + 1} w" for utt_id in IDS for start in (0, 1)],
                           text=TEXT[3:])
    done = "\n".join(fix(folder))
    assert "word_times: 6 lines of other utterances removed" in done
    assert "wav.scp: 1 not in the directory's recordings: rec1" in done
    assert "spk2gender: 1 not in the directory's speakers: ann" in done
    assert [line.split()[0] for line in (folder / "word_times").read_text().splitlines()] == [
        "bob-2", "bob-2", "bob-3", "bob-3", "cem-1", "cem-1"]
    assert list(read_table(folder / "wav.scp")) == ["rec2"] and list(read_table(folder / "reco2channel")) == ["rec2"]
    assert list(read_table(folder / "spk2gender")) == ["bob", "cem"]
    assert (folder / ".backup" / "word_times").exists() and validate(folder) == [] and fix(folder) == []
