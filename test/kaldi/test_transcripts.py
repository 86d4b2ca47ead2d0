"""Transcripts by slice: the same as the whole table, in next to no memory, and the same mistakes are told."""

import tracemalloc

import pytest

from blspkd.errors import DataError
from blspkd.kaldi import sampling
from blspkd.kaldi.data_dir import KaldiDir
from blspkd.kaldi.transcripts import STRIDE, Transcripts, as_rows, written_for

COUNT = 5 * STRIDE + 3


def make(folder, count: int = COUNT):
    folder.mkdir(exist_ok=True)
    ids = [f"utt{number:06d}" for number in range(count)]
    (folder / "text").write_text("".join(f"{utt_id} sätze\u2028 und {'x' * (index % 50)}\n"
                                         for index, utt_id in enumerate(ids)))
    (folder / "utt2spk").write_text("".join(f"{utt_id} spk\n" for utt_id in ids))
    return folder


def test_every_slice_is_that_of_the_table(tmp_path):
    folder = make(tmp_path)
    rows = [(one.utt_id, one.text) for one in KaldiDir.read(folder, need_audio=False)]
    read = Transcripts.read(folder)
    assert len(read) == COUNT and list(read) == rows == as_rows(dict(rows))
    for start, stop in ((0, 1), (63, 65), (64, 128), (100, 300), (COUNT - 1, COUNT + 7), (5, 5)):
        assert read[start:stop] == rows[start:stop]
    assert read[70] == rows[70] and read[-1] == rows[-1]
    with pytest.raises(IndexError):
        read[COUNT]


@pytest.mark.parametrize("number", [0, 1, 40, COUNT - 1, COUNT, COUNT + 1])
def test_a_sample_is_the_one_that_training_looks_for(tmp_path, number):
    folder = make(tmp_path)
    generation = {"max_utterances": number, "seed": 3}
    rows = dict(Transcripts.read(folder))
    drawn = list(sampling.written_for(rows, generation).items())
    read = written_for(Transcripts.read(folder), generation)
    assert list(read) == drawn == list(written_for(as_rows(rows), generation))
    assert read[10:25] == drawn[10:25]


@pytest.mark.parametrize("damage", [
    ("text", lambda lines: lines[:-1]), ("utt2spk", lambda lines: lines[:-1]), ("text", lambda lines: lines[::-1]),
    ("text", lambda lines: [*lines, lines[-1]]), ("text", lambda lines: ["utt000000\n", *lines[1:]]),
    ("utt2spk", lambda lines: []), ("text", lambda lines: [lines[0].replace("\n", "\r\n"), *lines[1:]])])
def test_mistakes_are_told_as_ever(tmp_path, damage):
    name, change = damage
    folder = make(tmp_path)
    lines = (folder / name).read_text().splitlines(keepends=True) if name == "utt2spk" else [
        f"{line}\n" for line in (folder / name).read_text().split("\n")[:-1]]
    (folder / name).write_text("".join(change(lines)))
    with pytest.raises(DataError) as expected:
        KaldiDir.read(folder, need_audio=False)
    with pytest.raises(DataError) as told:
        Transcripts.read(folder)
    assert str(told.value) == str(expected.value)


def test_what_is_not_there_is_told(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataError):
            Transcripts.read(folder)


def test_the_memory_is_a_fraction_of_a_byte_a_line(tmp_path):
    folder = make(tmp_path, 20_000)
    tracemalloc.start()
    try:
        read = Transcripts.read(folder)
        assert sum(len(read[start:start + 512]) for start in range(0, len(read), 512)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()
