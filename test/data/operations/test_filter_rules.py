"""The rules on quality (columns, noise, a recogniser's transcripts, near-duplicates), and the control by lot."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from blspkd.data.operations import verdicts
from blspkd.data.operations.filter import Sifted, filter_dir, sift
from blspkd.data.operations.limits import Limits
from blspkd.data.operations.verdicts import REASONS, UNUSABLE, character_error_rate
from blspkd.data.sound import FRAME, Sound, snr_db
from blspkd.errors import ConfigError, DataError
from blspkd.kaldi.check import validate

RATE = 16000
LONG = "one two three four five six seven eight nine ten"
# utterance: (text, what a recogniser wrote, score, language, date, SNR in dB, reason)
CASES = {
    "a-good": ("a good one", "a good won", 0.5, "en", "2019-05-31", 30, ""),
    "b-lang": ("das ist gut", "", 0.5, "de", "2019", 30, "another language"),
    "b-lang-and-all": ("das ist gut", "", 9, "de", "1999", 0, "another language"),
    "c-year": ("an old one", "an old one", 9, "en", "2001-01", 30, "another year"),
    "d-high": ("bad words", "bad words", 0.9, "en", "2020", 0, "score"),
    "d-low": ("poor words", "poor words", 0.1, "en", "2020", 30, "score"),
    "e-noise": ("heard badly", "hurt madly you", 0.5, "en", "2020", 3, "noise"),
    "f-unheard": ("something", "", 0.5, "en", "2020", 30, "transcript unlike the recogniser's"),
    "f-wrong": ("what is written", "something else was said", 0.5, "en", "2020", 30,
                "transcript unlike the recogniser's"),
    "g-long": (LONG, LONG, 0.5, "en", "2020", 30, ""),
    "h-again": (LONG.upper() + "!", LONG, 0.5, "en", "2020", 30, "near-duplicate"),
    "i-like-e": ("heard badly", "heard badly", 0.5, "en", "2020", 30, ""),  # the first one is noise
}
RULES = {"transcripts": "text.asr", "max_cer": 0.3, "min_snr_db": 10.0, "near_duplicates": 0.85, "score_above": 0.1,
         "score_below": 0.9, "languages": ["en"], "years": [2019, 2020], "max_tokens_per_second": 100.0}


def pulses(snr: float, frames: int = 100) -> np.ndarray:
    """Half of the frames are loud, half of them softer by `snr` dB; every frame has its power exactly."""
    level = np.where(np.arange(frames) % 2, 0.2, 0.2 * 10 ** (-snr / 20))
    return np.repeat(level, FRAME) * np.resize([1.0, -1.0], frames * FRAME)


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "train"
    folder.mkdir()
    columns = {"text": 0, "text.asr": 1, "utt2score": 2, "utt2lang": 3, "utt2date": 4}
    for name, column in columns.items():
        (folder / name).write_text("".join(f"{utt_id} {case[column]}".strip() + "\n" for utt_id, case in CASES.items()))
    for utt_id, case in CASES.items():
        soundfile.write(tmp_path / f"{utt_id}.wav", pulses(case[5]), RATE, subtype="FLOAT")
    (folder / "wav.scp").write_text("".join(f"{utt_id} {tmp_path}/{utt_id}.wav\n" for utt_id in CASES))
    for name in ("utt2spk", "spk2utt"):
        (folder / name).write_text("".join(f"{utt_id} {utt_id}\n" for utt_id in CASES))
    return folder


def test_each_utterance_has_its_first_reason_and_the_report_keeps_the_order(source, tmp_path):
    done = filter_dir(source, tmp_path / "kept", Limits(**RULES))
    expected = {reason: [utt_id for utt_id, case in CASES.items() if case[6] == reason] for reason in REASONS}
    assert {reason: list(found) for reason, found in done.left_out.items()} == expected
    assert sorted([*done.kept, *(utt_id for found in done.left_out.values() for utt_id in found)]) == sorted(CASES)
    report = json.loads((tmp_path / "kept/filter.json").read_text())
    assert list(report["counts"]) == list(report["left_out"]) == list(REASONS)
    assert report["counts"] == {reason: len(ids) for reason, ids in expected.items()}
    assert report["left_out"]["near-duplicate"] == {"h-again": "g-long, 100%"}
    assert report["left_out"]["transcript unlike the recogniser's"]["f-unheard"] == "CER 100%, heard: (nothing)"
    assert validate(tmp_path / "kept") == []


def test_to_filter_twice_is_to_filter_once(source, tmp_path):
    first = filter_dir(source, tmp_path / "once", Limits(**RULES))
    second = filter_dir(tmp_path / "once", tmp_path / "twice", Limits(**RULES))
    assert second.kept == first.kept and not any(second.left_out.values())
    assert (tmp_path / "twice/text").read_bytes() == (tmp_path / "once/text").read_bytes()


def test_unless_asked_none_of_these_rules_leaves_out_anything(source, tmp_path):
    for name in ("text.asr", "utt2score", "utt2lang", "utt2date"):
        (source / name).unlink()
    assert filter_dir(source, tmp_path / "kept", Limits(max_tokens_per_second=100)).kept == sorted(CASES)


@pytest.mark.parametrize(("rule", "gone"), [
    ({"score_above": 0.1}, {"d-low"}), ({"score_above": 0.5}, set(CASES) - {"b-lang-and-all", "c-year", "d-high"}),
    ({"score_below": 0.9}, {"b-lang-and-all", "c-year", "d-high"}),
    ({"score_below": 0.5}, set(CASES) - {"d-low"}),
    ({"score_above": 0.4, "score_below": 0.6}, {"b-lang-and-all", "c-year", "d-high", "d-low"})])
def test_scores_count_in_both_directions(source, tmp_path, rule, gone):
    done = filter_dir(source, tmp_path / "kept", Limits(max_tokens_per_second=100, **rule))
    assert set(done.left_out["score"]) == gone and set(done.kept) == set(CASES) - gone


@pytest.mark.parametrize(("name", "content", "rule", "message"), [
    ("utt2score", "a-good 1\n", {"score_above": 0}, "utt2score: 11 utterances have no line, the first is b-lang"),
    ("utt2score", None, {"score_below": 0}, "utt2score: cannot be read"),
    ("utt2score", "much", {"score_below": 0}, "utt2score: a-good: 'much' is not a number"),
    ("utt2score", "nan", {"score_below": 0}, "utt2score: a-good: 'nan' is not a number"),
    ("utt2date", "31.5.2019", {"years": [2019]}, "utt2date: a-good: '31.5.2019' is not a date like 2019, 2019-05"),
    ("utt2lang", "en de", {"languages": ["en"]}, "utt2lang: a-good: 'en de' is not a single word"),
    ("text.asr", "a-good x\n", {"transcripts": "text.asr"}, "text.asr: 11 utterances have no line.*transcribe the set"),
    ("text.asr", None, {"transcripts": "text.asr"}, "text.asr: there are no transcripts"),
    ("text.asr", None, {"transcripts": "exp/asr"}, "exp/asr: there are no transcripts")])
def test_a_column_that_is_missing_or_wrong_is_one_clear_error(source, tmp_path, name, content, rule, message):
    if content is None:
        (source / name).unlink()
    else:
        (source / name).write_text(content if content.endswith("\n") else "".join(f"{u} {content}\n" for u in CASES))
    with pytest.raises(DataError, match=message):
        filter_dir(source, tmp_path / "kept", Limits(**rule))
    assert not (tmp_path / "kept").exists()


def test_transcripts_are_read_as_transcribe_leaves_them(source, tmp_path):
    """A folder with `text`; where nothing was heard the id stands alone on its line; others may be there."""
    folder = tmp_path / "asr_train"
    folder.mkdir()
    (folder / "text").write_text((source / "text.asr").read_text() + "z-other words\n")
    inside, outside, file = (
        filter_dir(source, tmp_path / "kept", Limits(transcripts=place, max_tokens_per_second=100)).left_out
        for place in ("text.asr", str(folder), str(folder / "text")))
    assert inside == outside == file and len(inside["transcript unlike the recogniser's"]) == 5


def edits(one: str, other: str) -> int:
    """Levenshtein's distance, by its recurrence."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


@settings(max_examples=100)
@given(st.text("abc ", min_size=1, max_size=12).map(str.strip).filter(bool), st.text("abc ", max_size=12))
def test_the_character_error_rate_is_that_of_the_formula(text, transcript):
    said, heard = " ".join(text.split()), " ".join(transcript.split())
    assert character_error_rate(text, transcript) == pytest.approx(edits(said, heard) / len(said))
    assert character_error_rate(text.upper() + "!", transcript) == character_error_rate(text, transcript)


@pytest.mark.parametrize("snr", [0.0, 3.0, 10.0, 40.0])
def test_the_snr_is_the_90th_over_the_10th_percentile(snr):
    for samples in (pulses(snr), 0.01 * pulses(snr), np.concatenate([pulses(snr), np.zeros(FRAME // 2)])):
        assert snr_db(samples) == pytest.approx(snr, abs=1e-6)


def test_silence_is_not_infinitely_softer_and_a_single_frame_says_nothing():
    assert snr_db(np.zeros(4000)) == 0 and snr_db(np.zeros(0)) == snr_db(np.ones(FRAME)) == float("inf")
    half = np.concatenate([np.zeros(8000), np.full(8000, 0.1)])
    assert snr_db(half) == pytest.approx(80)  # power 0.01 over the floor of 1e-10


def test_the_control_leaves_out_as_many_by_lot(source, tmp_path):
    """What no training can use goes in the control too."""
    (source.parent / "a-good.wav").write_bytes(b"no audio")
    rules = filter_dir(source, tmp_path / "kept", Limits(**RULES))
    runs = [filter_dir(source, tmp_path / "lot", Limits(**RULES, random_seed=seed)) for seed in range(8)]
    again = filter_dir(source, tmp_path / "lot", Limits(**RULES, random_seed=7))
    assert runs[7] == again and len({tuple(run.kept) for run in runs}) > 1
    report = json.loads((tmp_path / "lot/filter.json").read_text())
    for run in runs:
        assert len(run.kept) == len(rules.kept) and list(run.left_out["undecodable audio"]) == ["a-good"]
        assert {reason for reason, found in run.left_out.items() if found} == {"undecodable audio", "at random"}
        assert run.instead_of == {reason: len(rules.left_out[reason]) for reason in REASONS if reason not in UNUSABLE}
    assert report["instead_of"]["score"] == 2 and "instead of: 2 another language" in str(again)
    # every utterance that can be used may go, those of the other languages may stay
    assert {utt_id for run in runs for utt_id in run.left_out["at random"]} == set(CASES) - {"a-good"}


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 40), st.booleans())
def test_kept_and_left_out_are_the_input(seed, size, control):
    """With whatever tables and sounds; and once more changes nothing."""
    draw = np.random.default_rng(seed)
    phrases = ["yes", "no", "...", "a b c d e f g", "h i j k l m n o"]
    texts = {f"u{i:02d}": " ".join(draw.choice(phrases, draw.integers(3))) for i in range(size)}
    sounds = {utt_id: Sound(draw.uniform(0.05, 4), draw.uniform(-70, 0), draw.choice([0.0, 0.5]), draw.uniform(0, 30))
              if draw.random() < 0.9 else "broken" for utt_id in texts}
    scores = {utt_id: draw.normal() for utt_id in texts}
    limits = Limits(max_bad_ratio=1, min_snr_db=5, near_duplicates=0.85, score_above=-1, score_below=1.5,
                    random_seed=3 if control else None)

    def run(texts: dict[str, str], limits: Limits) -> Sifted:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(verdicts, "read_column", lambda path, ids, parse: {utt_id: scores[utt_id] for utt_id in ids})
            patch.setattr(verdicts, "measure_all", lambda path, sources, *_: [(u, sounds[u]) for u in sources])
            return sift(Path("data"), texts, texts, lambda ids: [2] * len(ids), limits, [], 1)

    done = run(texts, limits)
    assert sorted([*done.kept, *(utt_id for found in done.left_out.values() for utt_id in found)]) == sorted(texts)
    assert list(done.left_out) == list(REASONS)
    assert done.seconds == pytest.approx(sum(sounds[utt_id].seconds for utt_id in done.kept))
    if not control:
        again = run({utt_id: texts[utt_id] for utt_id in done.kept}, limits)
        assert again.kept == done.kept and not any(again.left_out.values())
        assert len(run(texts, Limits(**{**vars(limits), "random_seed": seed})).kept) == len(done.kept)


@pytest.mark.parametrize(("limit", "message"), [
    ({"near_duplicates": 1.5}, "near_duplicates: is a share"), ({"languages": [False]}, "languages: .*in quotes"),
    ({"years": ["last"]}, "years"), ({"score_above": float("nan")}, "score_above: is not a number")])
def test_limits_that_mean_nothing_are_refused(limit, message):
    with pytest.raises(ConfigError, match=message):
        Limits(**limit)
