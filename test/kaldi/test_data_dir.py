"""A data directory is read with everything cross-checked."""

import pickle
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blspkd.audio.samples import AudioSource, load
from blspkd.errors import DataError
from blspkd.kaldi.data_dir import KaldiDir, Utterance, parse_segment, read_instructions, read_references
from blspkd.kaldi.tables import write_table

ids = st.text("abcdefghijABCDEFGHIJ0123456789._-+é日", min_size=1, max_size=8).filter(
    lambda key: key[0] != "-" and key not in (".", ".."))
paths = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs")) | st.just(" "), min_size=1).map(
    lambda text: f"/corpus/{text.strip()}.wav").filter(lambda path: not path.startswith("|"))
texts = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.just("\t"), min_size=1).map(
    lambda text: text.strip(" \t")).filter(bool)
times = st.integers(0, 10**6).map(lambda milliseconds: milliseconds / 1000)


def test_utterances_are_read(make_dir):
    folder = make_dir()
    directory = KaldiDir.read(folder)
    assert len(directory) == 6 and "ann-1" in directory and "nobody" not in directory
    assert [utterance.utt_id for utterance in directory] == sorted(directory.utterances)
    path = str(folder.parent / "audio" / "bob-2.wav")
    assert directory["bob-2"] == Utterance("bob-2", "bob", "some words of bob-2", AudioSource(path), None)
    assert len(load(directory["bob-2"].audio)) == 6400


def test_segments_and_durations_are_read(make_rich_dir):
    directory = KaldiDir.read(make_rich_dir())
    utterance = directory["bob-3"]
    assert (utterance.audio.start, utterance.audio.end, utterance.audio.channel) == (0.1, 0.2, 0)
    assert utterance.audio.path.endswith("rec2.wav") and utterance.duration == 0.1


def test_the_nearest_choice_of_a_channel_wins(make_rich_dir):
    folder = make_rich_dir(reco2channel=["rec2 2"])
    lines = (folder / "segments").read_text().splitlines()
    (folder / "segments").write_text("\n".join([*lines[:-1], lines[-1] + " 3"]))
    directory = KaldiDir.read(folder, channel=1)
    assert [directory[utt_id].audio.channel for utt_id in ("ann-1", "bob-2", "cem-1")] == [1, 2, 3]


def test_a_directory_without_audio_or_text_is_read_where_that_is_enough(make_dir):
    folder = make_dir(wav__scp=None, text=None)
    directory = KaldiDir.read(folder, need_text=False, need_audio=False)
    assert directory["ann-1"] == Utterance("ann-1", "ann", "", AudioSource(""), None)


def test_utterances_travel_to_other_processes(make_dir):
    directory = KaldiDir.read(make_dir())
    assert pickle.loads(pickle.dumps(list(directory))) == list(directory)


def test_references_and_instructions(make_rich_dir, make_dir):
    rich, plain = make_rich_dir(), make_dir()
    assert read_references(rich, "translate")["ann-1"] == "Wörter ann-1"
    assert read_references(rich, "repeat")["ann-1"] == "some words of ann-1"
    assert read_instructions(rich)["ann-1"] == "Repeat:  twice"
    assert read_instructions(plain) is None


@pytest.mark.parametrize(("files", "message"), [
    ({"utt2spk": None}, "utt2spk: cannot be read"),
    ({"utt2spk": ""}, "utt2spk: holds no utterance"),
    ({"text": None}, "text: cannot be read"),
    ({"wav__scp": None}, "wav.scp: cannot be read"),
    ({"text": ["ann-1 a"]}, "5 of the ids in utt2spk are not in text, the first is ann-2"),
    ({"wav__scp": ["ann-1 a.wav"]}, "5 of the ids in utt2spk are not in wav.scp, the first is ann-2"),
    ({"utt2spk": ["ann-1 ann"]}, "5 of the ids in text are not in utt2spk, the first is ann-2"),
    ({"wav__scp": ["ann-1 sph2pipe a.sph |", "ann-2 -"]}, "2 entries are commands.*ann-1.*allow_pipes true"),
    ({"utt2dur": ["ann-1 long"]}, "utt2dur: ann-1: .*'long'"),
    ({"utt2dur": ["ann-1 0"]}, "utt2dur: ann-1: '0' is not a number of seconds above 0"),
    ({"reco2channel": ["ann-1 A"]}, "reco2channel: ann-1: channel 'A' is not a number"),
    ({"segments": ["ann-1 nowhere 0 1"]}, "segments: ann-1: recording nowhere is not in wav.scp"),
    ({"segments": ["ann-1 ann-1 0"]}, "segments: ann-1: expected"),
    ({"segments": ["ann-1 ann-1 2 1"]}, "segments: ann-1: from 2 s to 1 s is not"),
])
def test_what_does_not_fit_is_refused(make_dir, files, message):
    with pytest.raises(DataError, match=message):
        KaldiDir.read(make_dir(**files))


def test_a_missing_directory_or_utterance_is_named(make_dir, tmp_path):
    with pytest.raises(DataError, match="nowhere: there is no such data directory"):
        KaldiDir.read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="there is no utterance nobody"):
        KaldiDir.read(make_dir())["nobody"]


def test_segments_to_the_end_and_with_a_channel():
    assert parse_segment("rec 1.5 -1") == ("rec", 1.5, None, None)
    assert parse_segment("rec\t0 2.25 1") == ("rec", 0.0, 2.25, 1)


@pytest.mark.parametrize("value", ["rec", "rec 0", "rec 0 1 0 9", "rec a 1", "rec 0 b", "rec -1 1", "rec 1 1",
                                   "rec 2 1", "rec nan 1", "rec 0 nan", "rec 0 inf", "rec 0 -2", "rec 0 1 -1",
                                   "rec 0 1 x"])
def test_other_segments_are_refused(value):
    with pytest.raises(ValueError, match=r"."):
        parse_segment(value)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(recordings=st.dictionaries(ids, st.tuples(paths, st.none() | st.integers(0, 9)), min_size=1, max_size=5),
       data=st.data())
def test_what_is_written_is_what_is_read(tmp_path, recordings, data):
    """Tables of any contents -> utterances; `expected` is made without them."""
    folder = tmp_path / "any"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    segmented = data.draw(st.booleans())
    names = data.draw(st.lists(ids, min_size=1, max_size=6, unique=True)) if segmented else list(recordings)
    expected, segments = {}, {}
    for name in names:
        recording = data.draw(st.sampled_from(sorted(recordings))) if segmented else name
        path, channel = recordings[recording]
        start = data.draw(times) if segmented else 0.0
        end = start + data.draw(times) + 0.001 if segmented and data.draw(st.booleans()) else None
        own = data.draw(st.none() | st.integers(0, 3)) if segmented else None
        segments[name] = f"{recording} {start} {-1 if end is None else end}{'' if own is None else f' {own}'}"
        expected[name] = Utterance(name, data.draw(ids), data.draw(texts),
                                   AudioSource(path, start, end, channel if own is None else own),
                                   data.draw(times) + 0.1)
    write_table(folder / "wav.scp", {name: path for name, (path, _) in recordings.items()})
    write_table(folder / "reco2channel", {name: str(channel) for name, (_, channel) in recordings.items()
                                          if channel is not None})
    if segmented:
        write_table(folder / "segments", segments)
    for name, field in (("utt2spk", "speaker"), ("text", "text"), ("utt2dur", "duration")):
        write_table(folder / name, {utt_id: str(getattr(item, field)) for utt_id, item in expected.items()})
    assert KaldiDir.read(folder).utterances == expected


def test_an_empty_text_is_no_text(make_dir):
    with pytest.raises(DataError, match="6 of the ids in utt2spk are not in text"):
        KaldiDir.read(make_dir(text=""))
