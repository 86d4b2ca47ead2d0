"""Cutting and joining loses nothing, mixes nothing up, and keeps every file by utterance."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blspkd.errors import DataError
from blspkd.kaldi.check import validate
from blspkd.kaldi.data_dir import KaldiDir
from blspkd.kaldi.fix import fix
from blspkd.kaldi.tables import read_table
from blspkd.kaldi.verbs import combine, copy, split, subset

IDS = ["ann-1", "ann-2", "bob-1", "bob-2", "bob-3", "cem-1"]


def contents(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_a_subset_has_its_lines_of_every_file(make_rich_dir, tmp_path):
    source = make_rich_dir()
    assert subset(source, tmp_path / "sub", ["ann-2", "bob-1"]) == 2
    assert validate(tmp_path / "sub") == []
    assert {file.name for file in (tmp_path / "sub").iterdir()} == {file.name for file in source.iterdir()}
    for file in (tmp_path / "sub").iterdir():
        if file.name not in ("spk2utt", "spk2gender", "wav.scp", "reco2channel", "README", "text.qa"):
            assert list(read_table(file)) == ["ann-2", "bob-1"], file
    assert read_table(tmp_path / "sub" / "text.qa") == {"bob-1": "yes"}
    assert list(read_table(tmp_path / "sub" / "wav.scp")) == ["rec1"]
    assert read_table(tmp_path / "sub" / "spk2gender") == {"ann": "f", "bob": "m"}
    assert read_table(tmp_path / "sub" / "spk2utt") == {"ann": "ann-2", "bob": "bob-1"}
    assert (tmp_path / "sub" / "README").read_text() == "made by hand\n"
    assert KaldiDir.read(tmp_path / "sub")["bob-1"] == KaldiDir.read(source)["bob-1"]


def test_side_tables_of_any_name_follow_the_utterances(make_dir, tmp_path):
    """utt2<what> may have lines for some utterances only, and be absent from a directory that is joined."""
    source = make_dir(utt2weight=["ann-1 2", "bob-1 0.5", "bob-3 0"])
    assert validate(source) == []
    subset(source, tmp_path / "some", ["ann-2", "bob-1", "bob-2"])
    assert read_table(tmp_path / "some" / "utt2weight") == {"bob-1": "0.5"}
    subset(source, tmp_path / "others", ["ann-1", "bob-3", "cem-1"])
    plain = make_dir("plain", utt2spk=["dan-1 dan"], spk2utt=["dan dan-1"], text=["dan-1 x"], wav__scp=["dan-1 x.wav"])
    combine(tmp_path / "all", [tmp_path / "some", tmp_path / "others", plain])
    assert read_table(tmp_path / "all" / "utt2weight") == read_table(source / "utt2weight")
    copy(source, tmp_path / "copy", "x-{}".format, "x-{}".format)
    assert list(read_table(tmp_path / "copy" / "utt2weight")) == ["x-ann-1", "x-bob-1", "x-bob-3"]
    fix(source, remove={"bob-1"})
    assert read_table(source / "utt2weight") == {"ann-1": "2", "bob-3": "0"}


@pytest.mark.parametrize(("parts", "per_utt", "sizes"), [
    (1, False, [6]), (2, False, [2, 4]), (3, False, [2, 3, 1]), (2, True, [3, 3]),
    (4, True, [2, 1, 2, 1]), (6, True, [1] * 6)])
def test_parts_are_contiguous_and_as_even_as_the_speakers_allow(make_dir, parts, per_utt, sizes):
    folder = make_dir()
    folders = split(folder, parts, per_utt=per_utt)
    assert [str(path.relative_to(folder)) for path in folders] == [
        f"split{parts}{'utt' * per_utt}/{number + 1}" for number in range(parts)]
    ids = [list(read_table(path / "utt2spk")) for path in folders]
    assert sum(ids, []) == IDS
    assert sorted(map(len, ids)) == sorted(sizes)
    assert all(validate(path) == [] for path in folders)
    if not per_utt:
        speakers = [set(read_table(path / "spk2utt")) for path in folders]
        assert sum(map(len, speakers)) == len(set().union(*speakers))


def test_more_parts_than_speakers_are_refused(make_dir):
    folder = make_dir()
    with pytest.raises(DataError, match="3 speakers.*--per-utt"):
        split(folder, 4)
    with pytest.raises(DataError, match="6 utterances"):
        split(folder, 7, per_utt=True)
    assert not list(folder.glob("split*"))


@pytest.mark.parametrize(("parts", "per_utt"), [(1, False), (2, False), (3, False), (2, True), (5, True), (6, True)])
def test_combining_what_was_split_gives_the_same_files(make_rich_dir, tmp_path, parts, per_utt):
    source = make_rich_dir()
    assert combine(tmp_path / "whole", split(source, parts, per_utt=per_utt)) == []
    assert contents(tmp_path / "whole") == contents(source)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(speakers=st.lists(st.integers(1, 6), min_size=1, max_size=8), data=st.data())
def test_split_and_combine_are_inverse_for_any_directory(tmp_path, speakers, data):
    folder = tmp_path / "any"
    folder.mkdir(exist_ok=True)
    ids = [f"s{speaker}-{number}" for speaker, count in enumerate(speakers) for number in range(count)]
    texts = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.just("\t"), min_size=1)
    (folder / "utt2spk").write_text("".join(f"{utt_id} {utt_id.split('-')[0]}\n" for utt_id in ids))
    (folder / "spk2utt").write_text("".join(
        f"s{speaker} {' '.join(f's{speaker}-{number}' for number in range(count))}\n"
        for speaker, count in enumerate(speakers)))
    (folder / "wav.scp").write_text("".join(f"{utt_id} {utt_id}.wav\n" for utt_id in ids))
    (folder / "text").write_text("".join(f"{utt_id} x{data.draw(texts)}\n" for utt_id in ids), encoding="utf-8")
    per_utt = data.draw(st.booleans())
    parts = split(folder, data.draw(st.integers(1, len(ids) if per_utt else len(speakers))), per_utt=per_utt)
    combine(tmp_path / "whole", parts[::-1])
    assert contents(tmp_path / "whole") == contents(folder)


def test_a_copy_has_other_names_in_every_file(make_rich_dir, tmp_path):
    source = make_rich_dir()
    assert copy(source, tmp_path / "copy", "a_{}".format, "b_{}".format) == 6
    assert validate(tmp_path / "copy", check_files=False) == []
    assert read_table(tmp_path / "copy" / "utt2spk")["a_bob-1"] == "b_bob"
    assert read_table(tmp_path / "copy" / "spk2gender") == {
        f"b_{speaker}": gender for speaker, gender in read_table(source / "spk2gender").items()}
    assert read_table(tmp_path / "copy" / "wav.scp") == read_table(source / "wav.scp")  # there are segments
    assert read_table(tmp_path / "copy" / "text") == {
        f"a_{key}": text for key, text in read_table(source / "text").items()}
    assert (tmp_path / "copy" / "README").read_text() == "made by hand\n"
    copy(tmp_path / "copy", tmp_path / "back", lambda name: name[2:], lambda name: name[2:])
    assert contents(tmp_path / "back") == contents(source)


def test_a_copy_renames_recordings_that_are_utterances(make_dir, tmp_path):
    source = make_dir()
    copy(source, tmp_path / "copy", "{}_x".format, str)
    assert list(read_table(tmp_path / "copy" / "wav.scp")) == [f"{utt_id}_x" for utt_id in IDS]
    assert read_table(tmp_path / "copy" / "spk2utt")["ann"] == "ann-1_x ann-2_x"
    with pytest.raises(DataError, match="one name"):
        copy(source, tmp_path / "same", lambda name: name[:3], str)


def info(**changes) -> str:
    return json.dumps({
        "model": "llm", "prompt": {"instruction": "Go on:"}, "generation": {"seed": 0}, "fingerprint": "abc",
        "sha256": "d",
        "counts": {"utterances": 6, "written": 5, "filtered": {"empty": 1}, "tokens": 99},
        "filtered": {"empty": ["ann-1"]}, "versions": {"torch": "2"}} | changes)


def test_the_record_of_continuations_is_cut_and_joined_too(make_rich_dir, tmp_path):
    source = make_rich_dir(continuation__info__json=info())
    parts = split(source, 2)
    first, second = (json.loads((part / "continuation.info.json").read_text()) for part in parts)
    assert first["counts"] == {"utterances": 2, "written": 1, "filtered": {"empty": 1}}
    assert first["filtered"] == {"empty": ["ann-1"]} and second["filtered"] == {}
    assert first["prompt"] == second["prompt"] == {"instruction": "Go on:"}
    assert not {"fingerprint", "sha256"} & first.keys()  # they are those of the whole
    combine(tmp_path / "whole", parts)
    whole = json.loads((tmp_path / "whole" / "continuation.info.json").read_text())
    assert whole["counts"] == {"utterances": 6, "written": 5, "filtered": {"empty": 1}}


def test_continuations_of_different_prompts_are_not_joined(make_rich_dir, tmp_path):
    first, second = split(make_rich_dir(continuation__info__json=info()), 2)
    (second / "continuation.info.json").write_text(info(prompt={"instruction": "Stop:"}))
    with pytest.raises(DataError, match="another prompt"):
        combine(tmp_path / "whole", [first, second])
    assert not (tmp_path / "whole").exists()


def test_whole_recordings_and_segments_are_joined(make_dir, make_rich_dir, tmp_path):
    plain = tmp_path / "plain"
    subset(make_dir(), plain, ["ann-1", "bob-1"])
    rich = tmp_path / "cut"
    subset(make_rich_dir(), rich, ["ann-2", "cem-1"])
    for name in ("text.translate", "emotion"):
        assert (rich / name).exists()
    combine(tmp_path / "both", [plain, rich])
    assert validate(tmp_path / "both") == []
    both = KaldiDir.read(tmp_path / "both")
    assert both["cem-1"] == KaldiDir.read(rich)["cem-1"]
    assert both["bob-1"].audio.path.endswith("bob-1.wav") and both["bob-1"].audio.end is None


def test_an_id_in_two_directories_is_refused(make_dir, tmp_path):
    first, second = make_dir("first"), tmp_path / "second"
    subset(first, second, ["bob-1"])
    with pytest.raises(DataError, match=r"utterance bob-1 is in .*first and in .*second"):
        combine(tmp_path / "both", [first, second])
    assert not (tmp_path / "both").exists()


def test_contradicting_recordings_and_missing_texts_are_refused(make_rich_dir, tmp_path):
    first, second = split(make_rich_dir(), 2, per_utt=True)
    (second / "wav.scp").write_text("rec1 other.wav\nrec2 other.wav\n")
    (first / "wav.scp").write_text("rec1 this.wav\nrec2 this.wav\n")
    with pytest.raises(DataError, match="rec1 has another line"):
        combine(tmp_path / "both", [first, second])
    (second / "text").unlink()
    with pytest.raises(DataError, match="text is in .* but not in all"):
        combine(tmp_path / "both", [first, second])


def test_files_that_differ_are_left_out_and_told(make_rich_dir, tmp_path):
    first, second = split(make_rich_dir(), 2)
    (second / "README").write_text("other")
    assert combine(tmp_path / "both", [first, second]) == ["README: differs between the directories, left out"]
    assert not (tmp_path / "both" / "README").exists()


def test_nothing_else_is_replaced(make_dir, tmp_path):
    source = make_dir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    for destination in (source, source.parent, tmp_path / "mine"):
        with pytest.raises(DataError, match="another place"):
            subset(source, destination, ["ann-1"])
    assert (tmp_path / "mine" / "thesis.tex").exists() and len(read_table(source / "text")) == 6
    subset(source, tmp_path / "sub", ["ann-1"])
    subset(source, tmp_path / "sub", ["ann-2"])
    assert list(read_table(tmp_path / "sub" / "text")) == ["ann-2"]


def test_unknown_or_no_utterances_are_refused(make_dir, tmp_path):
    source = make_dir()
    for ids, message in ((["nobody"], "nobody"), ([], "no utterance")):
        with pytest.raises(DataError, match=message):
            subset(source, tmp_path / "sub", ids)
    with pytest.raises(DataError, match="no utt2spk"):
        subset(tmp_path / "audio", tmp_path / "sub", ["a"])
    assert not (tmp_path / "sub").exists()


TEXT = [f"{utt_id} some words" for utt_id in IDS]
BROKEN = {
    "byte order mark": ({"text": "\ufeff" + "\n".join(TEXT) + "\n"}, "byte order mark"),
    "carriage returns": ({"text": "\r\n".join(TEXT) + "\r\n"}, "carriage return"),
    "not UTF-8": ({"text": b"ann-1 caf\xe9\n" + "\n".join(TEXT[1:]).encode()}, "invalid UTF-8"),
    "an utterance without text": ({"text": TEXT[1:]}, "no transcript"),
    "text without an utterance": ({"text": [*TEXT, "dan-1 words"]}, "not in utt2spk"),
    "an unknown table with a byte order mark": (
        {"emotion": ["ann-1 calm", "\ufeffbob-1 calm"]}, r"emotion:2: .*ufeff.*; mend the line"),
    "an unknown table that is not UTF-8": ({"emotion": b"ann-1 calm\nb\xe9b-1 calm\n"}, "emotion:2: .*UTF-8"),
}


@pytest.mark.parametrize("verb", [
    lambda folder, out: subset(folder, out, IDS[:4]), lambda folder, out: split(folder, 2),
    lambda folder, out: combine(out, [folder]), lambda folder, out: copy(folder, out, "x-{}".format, "x-{}".format)],
    ids=["subset", "split", "combine", "copy"])
@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_not_in_order_is_neither_cut_nor_joined(make_dir, tmp_path, kind, verb):
    files, message = BROKEN[kind]
    folder = make_dir(**files)
    with pytest.raises(DataError, match=message):
        verb(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(folder.glob("split*"))


def test_blanks_in_front_of_a_line_are_no_part_of_it(make_dir, tmp_path):
    folder = make_dir(text=[f" \t{line}" for line in TEXT])
    assert validate(folder) == []
    copy(folder, tmp_path / "copy", "x-{}".format, "x-{}".format)
    assert read_table(tmp_path / "copy" / "text") == {f"x-{utt_id}": "some words" for utt_id in IDS}
    subset(folder, tmp_path / "some", IDS[:2])
    assert read_table(tmp_path / "some" / "text") == dict.fromkeys(IDS[:2], "some words")


def test_an_empty_transcript_is_carried_along(make_dir, tmp_path):
    folder = make_dir(text=["ann-1", *TEXT[1:]])
    subset(folder, tmp_path / "some", IDS[:2])
    assert (tmp_path / "some" / "text").read_text() == "ann-1\nann-2 some words\n"


def test_tables_with_stale_rows_are_cut_by_their_names(make_dir, tmp_path):
    rows = ["aaa-1 x.ark:1", *(f"{utt_id} x.ark:2" for utt_id in IDS)]
    for name in ("word_times", "feats.scp", "vad.scp"):
        folder = make_dir(name, **{name.replace(".", "__"): rows})
        fix(folder)
        subset(folder, tmp_path / f"some {name}", IDS[:2])
        assert list(read_table(tmp_path / f"some {name}" / name)) == IDS[:2]


def test_a_folder_that_is_no_split_is_not_replaced(make_dir):
    folder = make_dir()
    (folder / "split2").mkdir()
    (folder / "split2" / "mine").write_text("important")
    with pytest.raises(DataError, match="split2: would be replaced, but holds mine"):
        split(folder, 2)
    assert (folder / "split2" / "mine").read_text() == "important"
    (folder / "split2" / "mine").unlink()
    assert split(folder, 2) == split(folder, 2)


def test_continuations_are_not_lost(make_dir, make_rich_dir, tmp_path):
    source, written = make_dir(), make_rich_dir()
    before = contents(written)
    with pytest.raises(DataError, match="its continuations be lost"):
        subset(source, written, IDS[:2])
    assert contents(written) == before
    combine(tmp_path / "again", [written])
    combine(tmp_path / "again", [written])
