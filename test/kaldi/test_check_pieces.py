"""The report on a directory in pieces is, word for word, that of one look at it all."""

import random

import pytest

from blspkd.kaldi.check import report, validate
from blspkd.kaldi.check_pieces import validate_in_pieces
from blspkd.kaldi.pieces import FOLDER, Share

COUNT = 200


@pytest.fixture
def make(tmp_path):
    """A directory of files that are not there, with lines of every kind spoilt by `draw`."""
    def build(draw: random.Random, segments: bool, rate: float, unsorted: bool):
        folder = tmp_path / "train"
        folder.mkdir()
        ids = [f"spk{number // 7:03d}-{number:05d}" for number in range(COUNT)]
        tables = {"utt2spk": {utt_id: utt_id[:6] for utt_id in ids},
                  "text": {utt_id: f"says {utt_id}" for utt_id in ids},
                  "utt2dur": dict.fromkeys(ids, "1.5"), "text.de": dict.fromkeys(ids[::3], "sagt"),
                  "continuation": dict.fromkeys(ids, '"and"')}
        if segments:
            tables["segments"] = {utt_id: f"rec{number // 3:03d} 0 1" for number, utt_id in enumerate(ids)}
            tables["wav.scp"] = {f"rec{number:03d}": f"{folder}/utt2spk" for number in range(COUNT // 3 + 1)}
        else:
            tables["wav.scp"] = {utt_id: f"{folder}/text" for utt_id in ids}
        tables["reco2channel"] = dict.fromkeys(tables["wav.scp"], "0")
        speakers: dict[str, list[str]] = {}
        for utt_id in ids:
            speakers.setdefault(utt_id[:6], []).append(utt_id)
        tables["spk2utt"] = {speaker: " ".join(names) for speaker, names in speakers.items()}
        for name, rows in tables.items():
            lines = [f"{key} {value}\n".encode() for key, value in rows.items()]
            for _ in range(int(rate * len(lines)) + (rate > 0 and draw.random() < 0.5)):
                spoil(lines, draw)
            if unsorted and draw.random() < 0.5:
                lines[3], lines[-4] = lines[-4], lines[3]
            (folder / name).write_bytes(b"".join(lines))
        return folder

    return build


def spoil(lines: list[bytes], draw: random.Random) -> None:
    place = draw.randrange(len(lines))
    key, value = (lines[place].split(None, 1) + [b"x", b"x\n"])[:2]
    other = lines[draw.randrange(len(lines))]
    lines[place:place + 1] = draw.choice([
        [], [lines[place]] * 2, [key + b"\n"], [key + b" \x07x\n"], [key + b" caf\xe9\n"], [key + b"/x " + value],
        [lines[place], key + b"-new " + value], [key + b" no-such-thing 3 2\n"], [lines[place].replace(b"\n", b"\r\n")],
        [key + b" " + (other.split(None, 1) + [b"\n"])[1]], [lines[place], b"\n"], [b" " + lines[place]],
        [key + b"\t" + value], [key + b" a b " + value], [key + b" $bad\n"]])


@pytest.mark.parametrize("unsorted", [False, True])
@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.005, 0.08])
@pytest.mark.parametrize("seed", range(3))
def test_pieces_tell_the_same_as_the_whole(make, seed, rate, segments, unsorted):
    folder = make(random.Random(f"{seed} {rate} {segments} {unsorted}"), segments, rate, unsorted)
    whole = report(folder, validate(folder))
    for size, jobs in ((29, 1), (64, 3)):
        for job in range(jobs, 1, -1):
            assert validate_in_pieces(folder, Share(job, jobs, size)) is None
        assert report(folder, validate_in_pieces(folder, Share(size=size))) == whole
    assert not (folder / FOLDER).exists()
    assert rate or unsorted or validate(folder) == []


@pytest.mark.parametrize("missing", ["utt2spk", "spk2utt", "text", "wav.scp"])
def test_files_that_are_not_there_are_told(make, missing):
    folder = make(random.Random(0), False, 0.0, False)
    (folder / missing).unlink()
    (folder / "instruction").mkdir()
    assert report(folder, validate_in_pieces(folder, Share(size=50))) == report(folder, validate(folder))


def test_seven_jobs_tell_the_same_as_one(make):
    folder = make(random.Random(7), True, 0.05, False)
    whole = report(folder, validate(folder))
    for job in range(1, 8):
        assert validate_in_pieces(folder, Share(job, 7, 20)) is None
    assert report(folder, validate_in_pieces(folder, Share(size=20))) == whole
