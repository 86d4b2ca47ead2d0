"""Durations come from the headers, every bad recording is named, and commands run only with consent."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blspkd.errors import AudioError, DataError
from blspkd.kaldi import recordings
from blspkd.kaldi.check import validate
from blspkd.kaldi.data_dir import KaldiDir
from blspkd.kaldi.recordings import choose_channel, materialize, write_durations
from blspkd.kaldi.tables import read_table

IDS = ["ann-1", "ann-2", "bob-1", "bob-2", "bob-3", "cem-1"]


def names(folder) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_durations_are_written_once(make_dir):
    folder = make_dir()
    assert write_durations(folder)
    assert {key: float(value) for key, value in read_table(folder / "utt2dur").items()} == {
        utt_id: pytest.approx(0.1 * (index + 1)) for index, utt_id in enumerate(IDS)}
    assert not write_durations(folder)
    assert KaldiDir.read(folder)["cem-1"].duration == pytest.approx(0.6)


@pytest.mark.parametrize("change", ["incomplete", "corrupt", "negative", "of others"])
def test_durations_are_written_again_when_they_may_be_wrong(make_rich_dir, change):
    folder = make_rich_dir(utt2dur=None)
    write_durations(folder)
    right = (folder / "utt2dur").read_bytes()
    (folder / "utt2dur").write_text({
        "incomplete": "ann-1 0.1000\n", "corrupt": "ann-1\x00", "negative": right.decode().replace("0.", "-0."),
        "of others": right.decode() + "dan-1 0.1\n"}[change])
    assert write_durations(folder)
    assert (folder / "utt2dur").read_bytes() == right
    assert not write_durations(folder)


def test_durations_from_elsewhere_are_not_trusted(make_dir):
    """Nothing says what they were made from."""
    folder = make_dir(utt2dur=[f"{utt_id} 7.0" for utt_id in IDS])
    assert write_durations(folder)
    assert KaldiDir.read(folder)["cem-1"].duration == pytest.approx(0.6)


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The names of the recordings that `write_durations` opens."""
    names = []
    measure = recordings.durations

    def durations(sources):
        names.append(Path(sources[0].path).name)
        return measure(sources)

    monkeypatch.setattr(recordings, "durations", durations)
    return names


@pytest.mark.parametrize("keep", ["size", "date"])
def test_a_recording_that_changed_under_its_path_is_measured_again(make_dir, opened, keep):
    folder = make_dir()
    write_durations(folder)
    opened.clear()
    path = folder.parent / "audio" / "bob-1.wav"
    before = path.stat()
    if keep == "date":
        soundfile.write(path, np.full(8000, 0.1), 16000, subtype="PCM_16")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        soundfile.write(path, np.full(4800, 0.1), 8000, subtype="PCM_16")
        assert path.stat().st_size == before.st_size
    assert write_durations(folder)
    assert KaldiDir.read(folder)["bob-1"].duration == pytest.approx({"date": 0.5, "size": 0.6}[keep])
    assert opened == ["bob-1.wav"]
    assert not write_durations(folder)


def test_only_what_the_tables_change_is_measured_again(make_rich_dir, opened):
    folder = make_rich_dir(utt2dur=None)
    write_durations(folder)
    opened.clear()
    later = time.time() + 5
    os.utime(folder / "wav.scp", (later, later))
    assert not write_durations(folder)
    segments = (folder / "segments").read_text()
    (folder / "segments").write_text(segments.replace("bob-1 rec1 0.2 0.3", "bob-1 rec1 0.2 0.25"))
    assert write_durations(folder)
    assert KaldiDir.read(folder)["bob-1"].duration == pytest.approx(0.05)
    assert opened == ["rec1.wav"]


def test_every_bad_recording_is_named_and_nothing_is_written(make_dir, tmp_path):
    audio = tmp_path / "audio"
    tone = np.full((1600, 1), 0.1, np.float32)
    (audio / "ann-1.wav").unlink()
    (audio / "ann-2.wav").write_bytes(b"")
    soundfile.write(audio / "bob-1.wav", tone[:0], 16000)
    soundfile.write(audio / "bob-2.wav", tone * np.nan, 16000, subtype="FLOAT")
    soundfile.write(audio / "bob-3.wav", np.hstack([tone, tone]), 16000)
    folder = make_dir(name="bad")
    with pytest.raises(AudioError) as raised:
        write_durations(folder)
    message = str(raised.value)
    for utt_id, what in zip(IDS, ("no such file", "empty file", "no samples", "NaN", "2 channels"), strict=False):
        assert any(utt_id in line and what in line for line in message.splitlines()), (utt_id, message)
    assert "5 of 6 utterances" in message and "cem-1" not in message and "fix" in message
    assert "utt2dur" not in names(folder) and not [name for name in names(folder) if "tmp" in name]
    assert list(read_table(folder / ".bad_audio")) == IDS[:-1]


def test_an_earlier_utt2dur_survives_a_failure(make_dir):
    folder = make_dir(utt2dur=["ann-1 1.0"])
    (folder.parent / "audio" / "bob-1.wav").unlink()
    with pytest.raises(AudioError, match="bob-1"):
        write_durations(folder)
    assert (folder / "utt2dur").read_text() == "ann-1 1.0\n"


def test_processes_find_the_same(make_dir, monkeypatch):
    folder, alone = make_dir("parallel"), make_dir("alone")
    write_durations(alone)
    monkeypatch.setattr(recordings, "_FILES_PER_PROCESS", 1)
    monkeypatch.setattr(recordings, "_TASK_FILES", 2)
    write_durations(folder, num_jobs=2)
    assert (folder / "utt2dur").read_bytes() == (alone / "utt2dur").read_bytes()
    (folder.parent / "audio" / "bob-1.wav").unlink()
    (folder / "utt2dur").unlink()
    with pytest.raises(AudioError, match="bob-1: .*no such file"):
        write_durations(folder, num_jobs=2)


def test_a_chosen_channel_makes_several_channels_usable(make_dir):
    folder = make_dir()
    for index, utt_id in enumerate(IDS):
        left = np.full(1600 * (index + 1), 0.1)
        soundfile.write(folder.parent / "audio" / f"{utt_id}.wav", np.stack([left, -left], 1), 16000)
    with pytest.raises(AudioError, match="6 of 6"):
        write_durations(folder)
    choose_channel(folder, 1)
    write_durations(folder)
    assert KaldiDir.read(folder)["ann-1"].audio.channel == 1
    assert ".bad_audio" not in names(folder)


def test_commands_do_not_run_without_consent(make_dir, tmp_path):
    folder = make_dir(wav__scp=[f"{utt_id} touch {tmp_path}/ran |" for utt_id in IDS])
    before = (folder / "wav.scp").read_bytes()
    with pytest.raises(DataError, match=r"6 entries are commands, the first is ann-1: touch .*allow_pipes true"):
        materialize(folder, tmp_path / "dump")
    with pytest.raises(DataError, match="allow_pipes true"):
        write_durations(folder)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "dump").exists()
    assert (folder / "wav.scp").read_bytes() == before


def test_commands_run_with_consent_and_only_once(make_dir, tmp_path):
    audio, log = tmp_path / "audio", tmp_path / "log"
    folder = make_dir(wav__scp=[f"ann-1 {audio}/ann-1.wav"] + [
        f"{utt_id} echo {utt_id} >> {log}; cat '{audio}/{utt_id}.wav' | cat |" for utt_id in IDS[1:]])
    commands = (folder / "wav.scp").read_bytes()
    assert materialize(folder, tmp_path / "dump", allow_pipes=True, num_jobs=2) == 5
    assert sorted(log.read_text().split()) == IDS[1:]
    sources = read_table(folder / "wav.scp")
    assert sources["ann-1"] == f"{audio}/ann-1.wav"
    for utt_id in IDS[1:]:
        assert sources[utt_id].startswith(f"{tmp_path}/dump/wav/{utt_id}-")
        ours, theirs = soundfile.read(sources[utt_id])[0], soundfile.read(audio / f"{utt_id}.wav")[0]
        assert np.array_equal(ours, theirs)
    assert (folder / ".backup" / "wav.scp").read_bytes() == commands
    assert materialize(folder, tmp_path / "dump", allow_pipes=True) == 0
    (folder / "wav.scp").write_bytes(commands)  # stage 1 made the directory anew
    materialize(folder, tmp_path / "dump", allow_pipes=True)
    assert len(log.read_text().split()) == 5
    (folder / "wav.scp").write_bytes(commands.replace(b"cem-1.wav' |", b"ann-1.wav' |"))  # another command
    materialize(folder, tmp_path / "dump", allow_pipes=True)
    assert len(log.read_text().split()) == 6
    assert len(soundfile.read(read_table(folder / "wav.scp")["cem-1"])[0]) == 1600


def test_commands_of_two_processes_leave_each_other_s_files_alone(make_dir, tmp_path):
    audio, go = tmp_path / "audio", tmp_path / "go"
    folder = make_dir(wav__scp=[f"ann-1 {audio}/ann-1.wav"] + [
        f"{utt_id} until [ -e {go} ]; do sleep 0.02; done; cat '{audio}/{utt_id}.wav' |" for utt_id in IDS[1:]])
    first = subprocess.Popen([sys.executable, "-c", f"from blspkd.kaldi.recordings import materialize; "
                              f"materialize({str(folder)!r}, {str(tmp_path / 'dump')!r}, allow_pipes=True)"])
    wavs = tmp_path / "dump" / "wav"
    while not list(wavs.glob("*.tmp-*/output")) and first.poll() is None:
        time.sleep(0.05)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "wav.scp").write_text("".join(f"{utt_id} cat '{audio}/{utt_id}.wav' |\n" for utt_id in IDS))
    assert materialize(other, tmp_path / "dump", allow_pipes=True) == len(IDS)
    go.touch()
    assert first.wait() == 0 and not list(wavs.glob("*tmp-*"))


def test_failed_commands_are_named_and_the_rest_is_kept(make_dir, tmp_path):
    audio = tmp_path / "audio"
    folder = make_dir(wav__scp=[
        f"ann-1 cat {audio}/ann-1.wav |", "ann-2 echo no decoder >&2; exit 3 |", "bob-1 true |",
        "bob-2 echo no audio |", f"bob-3 head -c 1000 {audio}/bob-3.wav |", f"cem-1 cat {audio}/cem-1.wav |"])
    before = (folder / "wav.scp").read_bytes()
    with pytest.raises(AudioError) as raised:
        materialize(folder, tmp_path / "dump", allow_pipes=True)
    message = str(raised.value)
    for utt_id, what in (("ann-2", "status 3: no decoder"), ("bob-1", "empty"), ("bob-2", "not audio"),
                         ("bob-3", "truncated")):
        assert any(utt_id in line and what in line for line in message.splitlines()), message
    assert "4 of 6" in message
    assert (folder / "wav.scp").read_bytes() == before
    assert sorted(name.split("-")[0] for name in names(tmp_path / "dump" / "wav")) == ["ann", "cem"]


@pytest.mark.parametrize("entry", ["-", "| cat > stolen", "|"])
def test_commands_that_give_no_audio_are_refused(make_dir, tmp_path, entry):
    with pytest.raises(DataError, match="ann-1: .*gives no audio"):
        materialize(make_dir(wav__scp=[f"ann-1 {entry}"]), tmp_path / "dump", allow_pipes=True)
    assert not (tmp_path / "dump").exists()


def test_the_shortest_audio_has_a_duration_that_can_be_read(make_dir):
    folder = make_dir()
    soundfile.write(folder.parent / "audio" / "ann-1.wav", [0.5], 16000)
    assert write_durations(folder) and validate(folder) == []


@pytest.mark.parametrize("form, told", [("MP3", True), ("FLAC", False)])
def test_cutting_long_mp3_recordings_is_announced_with_its_cost(tmp_path, monkeypatch, caplog, form, told):
    monkeypatch.setattr(recordings, "SLOW_SEGMENT", 0.0)  # that of a recording of minutes
    recording = tmp_path / f"r.{form.lower()}"
    soundfile.write(recording, np.sin(np.arange(160000) * 0.1) / 2, 16000, format=form)
    (tmp_path / "wav.scp").write_text(f"r {recording}\n")
    (tmp_path / "segments").write_text("r-1 r 0.0 1.0\nr-2 r 4.0 6.0\n")
    (tmp_path / "utt2spk").write_text("r-1 r\nr-2 r\n")
    (tmp_path / "text").write_text("r-1 a\nr-2 b\n")
    assert recordings.write_durations(tmp_path)
    assert ("2 utterances are cut out of mp3 recordings" in caplog.text) == told
    assert ("Convert the recordings to flac" in caplog.text) == told
