"""Every filter leaves out what it is for, counts it, and names it in the report."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from blspkd.data.operations.filter import filter_dir
from blspkd.data.operations.limits import Limits
from blspkd.data.operations.verdicts import REASONS, judge
from blspkd.data.sound import Sound
from blspkd.data.words import count_tokens, words
from blspkd.errors import ConfigError, DataError
from blspkd.kaldi.check import validate
from blspkd.kaldi.tables import read_table

RATE = 16000


def write_lines(file: Path, lines: list[str]) -> None:
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def noise(seconds: float, scale: float = 0.1) -> np.ndarray:
    return scale * np.random.default_rng(0).standard_normal(int(seconds * RATE))


CASES = {  # utterance: (samples or None: no file, transcript, reason or "")
    "a-good": (noise(1), "some words", ""),
    "b-empty": (noise(1), "", "empty text"),
    "b-marks": (noise(1), "... -- ?!", "empty text"),
    "c-test": (noise(1), "Don't  STOP, now!", "text of a test set"),
    "d-broken": (None, "some words", "undecodable audio"),
    "e-short": (noise(0.05), "a", "too short"),
    "f-long": (noise(31), "some words here and there and so on", "too long"),
    "g-slow": (noise(20), "one two", "too few tokens per second"),
    "h-fast": (noise(0.5), "w " * 30, "too many tokens per second"),
    "i-silent": (noise(1, 1e-4), "some words", "silence"),
    "j-clipped": (np.clip(noise(1, 0.8), -1, 1), "some words", "clipping"),
    "k-quiet": (noise(1, 0.01), "some words", ""),
    "l-pauses": (np.concatenate([noise(1, 0), noise(0.1), noise(1, 0)]), "word", ""),
}


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "train"
    folder.mkdir()
    for utt_id, (samples, _, _) in CASES.items():
        if samples is None:
            (tmp_path / f"{utt_id}.wav").write_bytes(b"no audio at all" * 9)
        else:
            soundfile.write(tmp_path / f"{utt_id}.wav", samples, RATE)
    write_lines(folder / "wav.scp", [f"{utt_id} {tmp_path}/{utt_id}.wav" for utt_id in CASES])
    write_lines(folder / "text", [f"{utt_id} {text}".strip() for utt_id, (_, text, _) in CASES.items()])
    write_lines(folder / "utt2spk", [f"{utt_id} {utt_id}" for utt_id in CASES])
    write_lines(folder / "spk2utt", [f"{utt_id} {utt_id}" for utt_id in CASES])
    (tmp_path / "test").mkdir()
    write_lines(tmp_path / "test" / "text", ["t-1 don\u2019t stop now", "t-2 word", "t-3 !"])
    return folder


def test_each_utterance_is_left_out_for_its_reason(source, tmp_path):
    done = filter_dir(source, tmp_path / "kept", Limits(duplicate_words=2), test_dirs=[tmp_path / "test"])
    expected = {reason: [utt_id for utt_id, case in CASES.items() if case[2] == reason] for reason in REASONS}
    assert {reason: list(found) for reason, found in done.left_out.items()} == expected
    assert done.kept == list(read_table(tmp_path / "kept" / "text")) == ["a-good", "k-quiet", "l-pauses"]
    assert validate(tmp_path / "kept") == []
    report = json.loads((tmp_path / "kept" / "filter.json").read_text())
    assert (report["utterances"], report["kept"]) == (13, 3) and report["kept_seconds"] == pytest.approx(4.1)
    assert report["counts"] == {reason: len(ids) for reason, ids in expected.items()}
    assert "train" in report["source"] and report["limits"]["duplicate_words"] == 2
    assert report["left_out"]["undecodable audio"]["d-broken"].endswith("leave it out")
    assert report["left_out"]["text of a test set"]["c-test"].endswith("test: t-1")
    assert "undecodable audio" in str(done) and "3 of 13 utterances kept" in str(done)
    assert (source / "wav.scp").exists() and len(read_table(source / "wav.scp")) == 13


def test_single_words_of_the_test_set_count_unless_asked(source, tmp_path):
    assert "l-pauses" in filter_dir(source, tmp_path / "kept", Limits(), test_dirs=[tmp_path / "test"]
                                    ).left_out["text of a test set"]


def test_processes_find_the_same(source, tmp_path, monkeypatch):
    alone = filter_dir(source, tmp_path / "alone", Limits())
    monkeypatch.setattr("blspkd.data.sound._UTTERANCES_PER_PROCESS", 1)
    monkeypatch.setattr("blspkd.data.sound._TASK_UTTERANCES", 4)
    assert filter_dir(source, tmp_path / "together", Limits(), num_jobs=2, report=tmp_path / "r.json") == alone
    assert (tmp_path / "r.json").exists() and not (tmp_path / "together" / "filter.json").exists()


def test_too_much_undecodable_audio_is_another_mistake(source, tmp_path):
    with pytest.raises(DataError, match="1 of 13 utterances cannot be decoded.*max_bad_ratio 0.01.*d-broken"):
        filter_dir(source, tmp_path / "kept", Limits(max_bad_ratio=0.01))
    assert not (tmp_path / "kept").exists()


def test_nothing_left_is_an_error_with_the_counts(source, tmp_path):
    with pytest.raises(DataError, match=r"no utterance is left[\s\S]*too short"):
        filter_dir(source, tmp_path / "kept", Limits(min_duration=99, max_duration=100))
    assert not (tmp_path / "kept").exists()


def test_a_directory_that_is_not_in_order_is_refused(source, tmp_path):
    write_lines(source / "text", ["a-good some words"])
    with pytest.raises(DataError, match="are not in text.*b-empty"):
        filter_dir(source, tmp_path / "kept", Limits())


def test_segments_are_measured_one_by_one(make_rich_dir, tmp_path):
    source = make_rich_dir()
    audio = source.parent / "audio" / "rec2.wav"
    soundfile.write(audio, np.concatenate([np.zeros(1600), np.full(3200, 0.2)]), RATE)
    done = filter_dir(source, tmp_path / "kept", Limits(max_tokens_per_second=100))
    assert list(done.left_out["silence"]) == ["bob-2"] and len(done.kept) == 5


def test_the_llms_tokens_are_counted(tiny_llm):
    assert list(count_tokens(["the farmer sold six bags", "x"], tiny_llm)) == [5, 1]


def test_words_and_cjk_characters_are_counted_without_an_llm():
    assert list(count_tokens(["two words", "你好，世界", "안녕 하세요", "ok 好 fine", ""])) == [2, 5, 2, 3, 0]


@pytest.mark.parametrize(("one", "other"), [
    ("Don't STOP!", "dont stop"), ("na\u00efve", "nai\u0308ve"), ("\uff21\uff22", "ab"), ("a  b\tc", "a, b. c"),
    ("Straße", "STRASSE"), ("हिन्दी", "हिन्दी!"), ("１２", "12")])
def test_texts_are_compared_as_words(one, other):
    assert words(one) == words(other) != ""


def test_marks_that_tell_words_apart_are_kept():
    assert words("की") != words("का") and words("ぱ") != words("は")


@settings(max_examples=100, deadline=None)
@given(seconds=st.floats(0.01, 60), tokens=st.integers(1, 200), level=st.floats(-90, 0, allow_subnormal=False),
       clipped=st.floats(0, 1, allow_subnormal=False))
def test_what_no_limit_excludes_is_kept(seconds, tokens, level, clipped):
    limits = Limits(0, 1e9, 0, 1e9, -100, 1)
    assert judge(Sound(seconds, level, clipped), tokens, limits) == ("", "")
    reason, why = judge(Sound(seconds, level, clipped), tokens, Limits())
    assert reason in ("", *REASONS) and bool(reason) == bool(why)


@pytest.mark.parametrize(("name", "value"), [("max_duration", math.nan), ("max_bad_ratio", 5), ("max_clipping", -0.1)])
def test_limits_that_limit_nothing_are_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        Limits(**{name: value})
