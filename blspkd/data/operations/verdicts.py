"""What speaks against an utterance, whatever the others are: its text, the user's tables, its sound, a recogniser.

Each utterance that is left out has one reason, the first of `REASONS` that holds.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from blspkd.audio.samples import AudioSource
from blspkd.data.operations.limits import Limits
from blspkd.data.sound import Sound, measure_all
from blspkd.data.words import count_tokens, split_words, words
from blspkd.kaldi.columns import parse_score, parse_word, parse_year, read_column, read_transcripts
from blspkd.kaldi.data_dir import check_same_ids, read_sources
from blspkd.kaldi.tables import read_table

EMPTY, IN_TEST = "empty text", "text of a test set"
LANGUAGE, YEAR, SCORE = "another language", "another year", "score"
UNDECODABLE, TOO_SHORT, TOO_LONG = "undecodable audio", "too short", "too long"
TOO_FEW, TOO_MANY = "too few tokens per second", "too many tokens per second"
SILENT, CLIPPED, NOISY = "silence", "clipping", "noise"
WRONG, DUPLICATE = "transcript unlike the recogniser's", "near-duplicate"
AT_RANDOM = "at random"  # the control, in the place of all but what cannot be trained on
REASONS = (EMPTY, IN_TEST, LANGUAGE, YEAR, SCORE, UNDECODABLE, TOO_SHORT, TOO_LONG, TOO_FEW, TOO_MANY, SILENT, CLIPPED,
           NOISY, WRONG, DUPLICATE, AT_RANDOM)
UNUSABLE = (EMPTY, IN_TEST, UNDECODABLE)  # left out of the control too


@dataclass(frozen=True, slots=True)
class Verdict:
    """What can be said of an utterance without the others."""

    reason: str  # "": it is kept
    why: str
    seconds: float | None  # None: it was not opened, or cannot be


def judge_dir(path: Path, limits: Limits, test_dirs: Iterable[Path], llm: str, num_jobs: int
              ) -> tuple[dict[str, str], dict[str, Verdict]]:
    """The transcripts of a data directory, and a verdict on each utterance."""
    texts = read_table(path / "text", allow_empty=True)
    sources = read_sources(path)
    speakers = read_table(path / "utt2spk")
    check_same_ids(path, speakers, texts, "text")
    check_same_ids(path, speakers, sources, "segments" if (path / "segments").exists() else "wav.scp")
    return texts, judge_all(path, texts, sources, lambda ids: count_tokens([texts[utt_id] for utt_id in ids], llm),
                            limits, test_dirs, num_jobs)


def judge_all(path: Path, texts: Mapping[str, str], sources: Mapping[str, AudioSource],
              count: Callable[[list[str]], Iterable[int]], limits: Limits, test_dirs: Iterable[Path],
              num_jobs: int) -> dict[str, Verdict]:
    """{utterance: verdict}, in the order of `texts`; arguments as for `sift`."""
    verdicts: dict[str, Verdict] = dict.fromkeys(texts, Verdict("", "", None))
    candidates = _by_text(texts, _test_texts(test_dirs, limits.duplicate_words), verdicts)
    by_column = _by_column(path, candidates, limits)
    if limits.random_seed is None:  # the control may keep what a column speaks against, and has to open it
        verdicts |= {utt_id: Verdict(*found, None) for utt_id, found in by_column.items()}
        candidates = [utt_id for utt_id in candidates if utt_id not in by_column]
    tokens = dict(zip(candidates, count(candidates), strict=True))
    for utt_id, found in measure_all(path, {utt_id: sources[utt_id] for utt_id in candidates}, limits.max_duration,
                                     num_jobs):
        if isinstance(found, str):
            verdicts[utt_id] = Verdict(UNDECODABLE, found, None)
        else:
            reason = by_column.get(utt_id) or judge(found, tokens[utt_id], limits)
            verdicts[utt_id] = Verdict(*reason, found.seconds)
    kept = {utt_id: texts[utt_id] for utt_id, verdict in verdicts.items() if not verdict.reason}
    for utt_id, reason in _by_transcript(path, kept, limits).items():
        verdicts[utt_id] = Verdict(*reason, verdicts[utt_id].seconds)
    return verdicts


def judge(sound: Sound, tokens: int, limits: Limits) -> tuple[str, str]:
    """(reason, why) to leave out an utterance of that sound and that many tokens; ("", "") to keep it."""
    rate = tokens / sound.seconds
    checks = (
        (sound.seconds < limits.min_duration, TOO_SHORT, f"{sound.seconds:.3f} s"),
        (sound.seconds > limits.max_duration, TOO_LONG, f"{sound.seconds:.1f} s"),
        (rate < limits.min_tokens_per_second, TOO_FEW, f"{tokens} in {sound.seconds:.1f} s"),
        (rate > limits.max_tokens_per_second, TOO_MANY, f"{tokens} in {sound.seconds:.1f} s"),
        (sound.level <= limits.silence_db, SILENT, f"{sound.level:.0f} dB"),
        (sound.clipped > limits.max_clipping, CLIPPED, f"{100 * sound.clipped:.1f}%"),
        (sound.snr < limits.min_snr_db, NOISY, f"{sound.snr:.1f} dB"),
    )
    return next(((reason, why) for holds, reason, why in checks if holds), ("", ""))


def _test_texts(test_dirs: Iterable[Path], min_words: int) -> dict[str, str]:
    """{text to compare: where it is from}"""
    found = {}
    for path in test_dirs:
        for utt_id, text in read_table(path / "text", allow_empty=True).items():
            compared = words(text)
            if len(split_words(compared)) >= max(1, min_words):
                found.setdefault(compared, f"{path}: {utt_id}")
    return found


def _by_text(texts: Mapping[str, str], test_texts: Mapping[str, str], verdicts: dict[str, Verdict]) -> list[str]:
    """The utterances whose text is of use; of the others the verdicts are written."""
    candidates = []
    for utt_id, text in texts.items():
        compared = words(text)
        if not compared:
            verdicts[utt_id] = Verdict(EMPTY, text, None)
        elif compared in test_texts:
            verdicts[utt_id] = Verdict(IN_TEST, test_texts[compared], None)
        else:
            candidates.append(utt_id)
    return candidates


def _by_column(path: Path, utt_ids: list[str], limits: Limits) -> dict[str, tuple[str, str]]:
    """{utt-id: (reason, why)} of those that a table of the user speaks against."""
    found: dict[str, tuple[str, str]] = {}
    if limits.score_above is not None or limits.score_below is not None:
        low = -float("inf") if limits.score_above is None else limits.score_above
        high = float("inf") if limits.score_below is None else limits.score_below
        scores = read_column(path / "utt2score", utt_ids, parse_score)
        found |= {utt_id: (SCORE, f"{score:g}") for utt_id, score in scores.items() if not low < score < high}
    for allowed, name, parse, reason in ((set(map(int, limits.years)), "utt2date", parse_year, YEAR),
                                         (set(limits.languages), "utt2lang", parse_word, LANGUAGE)):
        if allowed:  # the first of REASONS comes last here, and stays
            values = read_column(path / name, utt_ids, parse)
            found |= {utt_id: (reason, str(value)) for utt_id, value in values.items() if value not in allowed}
    return found


def _by_transcript(path: Path, texts: Mapping[str, str], limits: Limits) -> dict[str, tuple[str, str]]:
    """{utt-id: (reason, why)} of those that a recogniser understood otherwise."""
    if not limits.transcripts:
        return {}
    heard = read_transcripts(path, limits.transcripts, texts)
    rates = {utt_id: character_error_rate(text, heard[utt_id]) for utt_id, text in texts.items()}
    return {utt_id: (WRONG, f"CER {100 * rate:.0f}%, heard: {heard[utt_id] or '(nothing)'}")
            for utt_id, rate in rates.items() if rate > limits.max_cer}


def character_error_rate(text: str, transcript: str) -> float:
    """Least number of insertions, deletions and substitutions per character of the text, both as `words`.

    Spaces count. text: holds a letter or a digit.
    """
    import jiwer

    text, transcript = words(text), words(transcript)
    return 0.0 if text == transcript else jiwer.cer(text, transcript)
