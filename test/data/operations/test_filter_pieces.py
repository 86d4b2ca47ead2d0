"""What is left of a directory that is filtered in pieces is, byte for byte, what one process leaves of it."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blspkd.data.operations.filter import filter_dir
from blspkd.data.operations.filter_pieces import filter_in_pieces
from blspkd.data.operations.limits import Limits
from blspkd.errors import DataError
from blspkd.kaldi.check import validate
from blspkd.kaldi.fix import spk2utt
from blspkd.kaldi.pieces import FOLDER, Share
from blspkd.kaldi.tables import write_table

COUNT = 24
LONG = "one two three four five six seven eight nine ten"
ALL = {"transcripts": "text.asr", "max_cer": 0.3, "near_duplicates": 0.8, "score_above": 0.15, "languages": ["en"],
       "max_tokens_per_second": 100.0}


@pytest.fixture(params=["segments", "files"])
def source(request, tmp_path) -> Path:
    """Good and bad ones of every kind, all over the directory."""
    folder = tmp_path / "train"
    folder.mkdir()
    ids = [f"utt{number:03d}" for number in range(COUNT)]
    sound = np.sin(np.arange(16000) / 5) * 0.1
    speakers = {utt_id: f"spk{number % 3}" for number, utt_id in enumerate(ids)}  # all over the directory, too
    tables = {
        "utt2spk": speakers, "spk2utt": spk2utt(speakers), "spk2gender": {"spk0": "f", "spk1": "m", "spk2": "f"},
        "text": {utt_id: f"{LONG} {number % 5}" if number % 4 == 0 else f"it is number {number}"
                 for number, utt_id in enumerate(ids)},
        "utt2score": {utt_id: f"{number % 9 / 10}" for number, utt_id in enumerate(ids)},
        "utt2lang": {utt_id: "de" if number % 11 == 0 else "en" for number, utt_id in enumerate(ids)},
        "segments": {utt_id: f"rec{number // 4 * 5 % 6} 0.{number % 4} 0.9" for number, utt_id in enumerate(ids)},
        "wav.scp": {f"rec{number}": f"{tmp_path}/rec{number}.wav" for number in range(6)},
        "reco2channel": {f"rec{number}": "0" for number in range(6)}}
    tables["text.asr"] = {utt_id: "quite another" if number % 7 == 0 else text
                          for number, (utt_id, text) in enumerate(tables["text"].items())}
    if request.param == "files":
        tables["wav.scp"] = {utt_id: f"{tmp_path}/rec{number % 6}.wav" for number, utt_id in enumerate(ids)}
        tables["reco2channel"] = dict.fromkeys(ids, "0")
        del tables["segments"]
    for number in range(6):
        soundfile.write(tmp_path / f"rec{number}.wav", sound * (number != 4), 16000)
    for name, rows in tables.items():
        write_table(folder / name, rows)
    (folder / "README").write_text("as it is\n")
    (tmp_path / "test").mkdir()
    write_table(tmp_path / "test/text", {"x": "It is number 13!"})
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


RULES = [{}, ALL, {**ALL, "near_duplicates": 0.0}, {**ALL, "random_seed": 3}, {"random_seed": 0},
         {"near_duplicates": 0.9, "min_duration": 0.7}]


@pytest.mark.parametrize("rules", RULES)
def test_pieces_leave_the_same_as_the_whole(source, tmp_path, rules):
    limits, options = Limits(**rules), {"test_dirs": [tmp_path / "test"], "llm": ""}
    said = str(filter_dir(source, tmp_path / "whole", limits, **options))
    whole = contents(tmp_path / "whole")
    assert len(whole) == len(contents(source)) + 1 and 0 < whole["text"].count(b"\n") < COUNT
    for size, jobs in (4, 1), (7, 7):
        for job in range(jobs, 1, -1):
            share = Share(job, jobs, size)
            assert filter_in_pieces(source, tmp_path / "pieces", limits, share, **options) is None
        done = filter_in_pieces(source, tmp_path / "pieces", limits, Share(size=size), **options)
        assert str(done) == said and contents(tmp_path / "pieces") == whole
    assert not (source / FOLDER).exists()
    assert validate(tmp_path / "pieces") == []


def test_other_options_in_between_are_noticed(source, tmp_path):
    for job, limits in itertools.product((1, 2), (Limits(min_duration=0.7), Limits())):
        filter_in_pieces(source, tmp_path / "pieces", limits, Share(job, 2, 5))
    filter_dir(source, tmp_path / "whole", Limits(min_duration=0.7))
    filter_in_pieces(source, tmp_path / "pieces", Limits(min_duration=0.7), Share(size=5))
    assert contents(tmp_path / "pieces") == contents(tmp_path / "whole")


def test_transcripts_from_elsewhere_and_a_report_elsewhere(source, tmp_path):
    (tmp_path / "asr").mkdir()
    shutil.move(source / "text.asr", tmp_path / "asr/text")
    limits = Limits(transcripts=str(tmp_path / "asr"), max_cer=0.3)
    for run, name in (lambda *a, **k: filter_dir(*a, **k), "whole"), (
            lambda *a, **k: filter_in_pieces(*a, Share(size=5), **k), "pieces"):
        run(source, tmp_path / name, limits, report=tmp_path / f"{name}.json")
    assert contents(tmp_path / "pieces") == contents(tmp_path / "whole")
    assert (tmp_path / "pieces.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_continuations_go_with_their_utterances(source, tmp_path):
    ids = [line.split()[0] for line in open(source / "text")]
    write_table(source / "continuation", dict.fromkeys(ids[2:], '"and"'))
    (source / "continuation.info.json").write_text(
        '{"model": "x", "prompt": {}, "generation": {}, "identity": {}, "counts": {}, "fingerprint": "f", '
        f'"filtered": {{"empty": ["{ids[0]}", "{ids[1]}"]}}}}')
    filter_dir(source, tmp_path / "whole", Limits(min_duration=0.7))
    filter_in_pieces(source, tmp_path / "pieces", Limits(min_duration=0.7), Share(size=5))
    assert contents(tmp_path / "pieces") == contents(tmp_path / "whole")


@pytest.mark.parametrize("limits", [{"min_duration": 9}, {"max_bad_ratio": 0.01}])
def test_the_same_errors_end_it_and_nothing_is_written(source, tmp_path, limits):
    (tmp_path / "rec2.wav").write_bytes(b"")
    errors = []
    for run in filter_dir, lambda *words: filter_in_pieces(*words, Share(size=5)):
        with pytest.raises(DataError) as raised:
            run(source, tmp_path / "out", Limits(**{"max_bad_ratio": 0.5, **limits}))
        errors.append(str(raised.value))
    assert errors[0] == errors[1] and not (tmp_path / "out").exists()
