"""Durations measured in pieces are, byte for byte, those of one look at all recordings."""

import numpy as np
import pytest
import soundfile

from blspkd.errors import AudioError, DataError
from blspkd.kaldi.duration_pieces import write_durations_in_pieces
from blspkd.kaldi.pieces import FOLDER, Share
from blspkd.kaldi.recordings import BAD_AUDIO, MADE_FROM, write_durations

NAMES = ("utt2dur", MADE_FROM)


def contents(folder) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in NAMES if (folder / name).exists()}


@pytest.fixture(params=["plain", "segments"])
def folder(request, make_dir, make_rich_dir):
    return make_dir() if request.param == "plain" else make_rich_dir(utt2dur=None)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("jobs", [1, 7])
def test_pieces_give_the_same_files_and_are_measured_once(folder, size, jobs):
    assert write_durations(folder)
    whole = contents(folder)
    for name in NAMES:
        (folder / name).unlink()
    for job in range(jobs, 1, -1):
        assert write_durations_in_pieces(folder, Share(job, jobs, size)) is None
    assert write_durations_in_pieces(folder, Share(size=size))
    assert contents(folder) == whole and not (folder / FOLDER).exists()
    assert write_durations_in_pieces(folder, Share(size=size)) is False
    assert write_durations(folder) is False


def test_what_changed_is_measured_again(make_dir):
    folder = make_dir()
    write_durations_in_pieces(folder, Share(size=2))
    soundfile.write(folder.parent / "audio" / "bob-1.wav", np.full(8000, 0.1), 16000)
    assert write_durations_in_pieces(folder, Share(size=2))
    assert "bob-1 0.5000" in (folder / "utt2dur").read_text()


def test_bad_recordings_are_told_as_by_one_process(make_dir):
    folder = make_dir()
    for name in ("ann-2", "cem-1"):
        (folder.parent / "audio" / f"{name}.wav").write_bytes(b"")
    with pytest.raises(AudioError) as whole:
        write_durations(folder)
    listed = (folder / BAD_AUDIO).read_bytes()
    (folder / BAD_AUDIO).unlink()
    with pytest.raises(AudioError) as pieces:
        write_durations_in_pieces(folder, Share(size=2))
    assert str(pieces.value) == str(whole.value) and (folder / BAD_AUDIO).read_bytes() == listed
    assert not (folder / "utt2dur").exists() and not (folder / FOLDER).exists()


def test_a_table_that_is_not_in_order_is_told_with_its_name(make_dir):
    folder = make_dir()
    (folder / "wav.scp").write_text((folder / "wav.scp").read_text().replace("bob-1 ", "bob-1\x07 "))
    with pytest.raises(DataError, match=f"{folder}/wav.scp.*(.|\n)*the verb validate"):
        write_durations_in_pieces(folder, Share(size=2))
