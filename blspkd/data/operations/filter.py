"""Leave out what is no use for training, and report what went and why: a new data directory (`filter_dir`, stage 1), or
fewer examples of a training (`Filter`).

Each utterance that is left out has one reason, the first of `REASONS` that holds; the report counts all of them and
lists every id. Texts are compared as words: letters and digits, without case, punctuation and accents' encoding.
What is left is not changed by the same filter once more: near-duplicates are looked for last, among the others.

The rules on quality are those of A Pretrainer's Guide to Training Data (arXiv 2305.13169) for speech: what a text
classifier says there of toxicity and quality is a column of the user's here (`utt2score`); none is shipped.
"""

import json
import os
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

from blspkd.audio.samples import AudioSource
from blspkd.data.near_duplicates import near_duplicates, similarity
from blspkd.data.operations.limits import Limits
from blspkd.data.operations.operation import Operation
from blspkd.data.sound import Sound, measure_all
from blspkd.data.words import count_tokens, split_words, words
from blspkd.errors import DataError
from blspkd.files import atomic_write
from blspkd.kaldi.columns import parse_score, parse_word, parse_year, read_column, read_transcripts
from blspkd.kaldi.data_dir import check_same_ids, read_sources
from blspkd.kaldi.tables import read_table
from blspkd.kaldi.verbs import subset

REPORT = "filter.json"
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

_SHOWN = 5  # ids per reason on the screen

LeftOut = dict[str, dict[str, str]]  # reason -> {utt-id: why}, every reason of REASONS


@dataclass
class Sifted:
    """What is kept, and what was left out."""

    kept: list[str]
    seconds: float  # of what is kept
    left_out: LeftOut
    unit: str = ""  # what tokens are
    instead_of: dict[str, int] = field(default_factory=dict)  # control: what the rules would have left out

    def __str__(self) -> str:
        total = len(self.kept) + sum(map(len, self.left_out.values()))
        lines = [f"{len(self.kept)} of {total} utterances kept, {self.seconds / 3600:.2f} hours (tokens: {self.unit})"]
        for reason, found in self.left_out.items():
            shown = ", ".join(f"{utt_id} ({why})" if why else utt_id for utt_id, why in islice(found.items(), _SHOWN))
            lines.append(f"  {reason:<35}{len(found):>8}  {shown}{' ...' if len(found) > _SHOWN else ''}".rstrip())
        if self.instead_of:
            rules = ", ".join(f"{count} {reason}" for reason, count in self.instead_of.items() if count)
            lines.append(f"  at random instead of: {rules}")
        return "\n".join(lines)


def filter_dir(source: str | os.PathLike, destination: str | os.PathLike, limits: Limits, *,
               test_dirs: Iterable[str | os.PathLike] = (), llm: str = "", report: str | os.PathLike | None = None,
               num_jobs: int = 1) -> Sifted:
    """Write the utterances of `source` that `limits` let pass to the new data directory `destination`.

    test_dirs: data directories whose transcripts must not occur in it.
    llm:       Hugging Face id or folder whose tokenizer counts; without one, words count (and CJK characters).
    report:    file for the report (JSON); `destination`/filter.json if it is None.
    Raises DataError where the directory is not in order, nothing would be left, or too much audio is undecodable; then
    nothing is written.
    """
    source, destination = Path(source), Path(destination)
    texts = read_table(source / "text", allow_empty=True)
    sources = read_sources(source)
    speakers = read_table(source / "utt2spk")
    check_same_ids(source, speakers, texts, "text")
    check_same_ids(source, speakers, sources, "segments" if (source / "segments").exists() else "wav.scp")
    test_dirs = [Path(path) for path in test_dirs]
    result = sift(source, texts, sources, lambda ids: count_tokens([texts[utt_id] for utt_id in ids], llm), limits,
                  test_dirs, num_jobs)
    result.unit = f"{llm}'s" if llm else "words and CJK characters"
    if not result.kept:
        raise DataError(f"{source}: no utterance is left: {result}")
    subset(source, destination, result.kept)
    with atomic_write(report or destination / REPORT) as file:
        json.dump({"source": str(source), "limits": asdict(limits), "test_dirs": list(map(str, test_dirs)),
                   "tokens": result.unit, "utterances": len(texts), "kept": len(result.kept),
                   "kept_seconds": round(result.seconds, 2),
                   "counts": {reason: len(found) for reason, found in result.left_out.items()},
                   "instead_of": result.instead_of,
                   "left_out": {reason: dict(sorted(found.items())) for reason, found in result.left_out.items()}},
                  file, ensure_ascii=False, indent=1)
    return result


class Filter(Operation):
    """The same limits, for the examples of a training; tokens are those of its LLM."""

    @dataclass(frozen=True)
    class Options(Limits):
        test_dirs: list = field(default_factory=list)  # data directories whose sentences must not be trained on
        num_jobs: int = 1  # processes that open the audio

    def apply(self, examples, data, random):
        limits, tokens = self.options, {example.utt_id: example.n_tokens for example in examples}
        result = sift(data.path, {utt_id: data[utt_id].text for utt_id in tokens},
                      {example.utt_id: example.audio for example in examples},
                      lambda ids: map(tokens.get, ids), limits, limits.test_dirs, limits.num_jobs)
        kept = set(result.kept)
        return ([example for example in examples if example.utt_id in kept],
                {reason: list(ids) for reason, ids in result.left_out.items()})


def sift(path: Path, texts: Mapping[str, str], sources: Mapping[str, AudioSource],
         count: Callable[[list[str]], Iterable[int]], limits: Limits, test_dirs: Iterable[str | os.PathLike],
         num_jobs: int) -> Sifted:
    """What `limits` let pass of utterances of data directory `path`.

    count: ids of utterances -> tokens of each. Raises DataError where too much of the audio is undecodable, or a table
    that a limit asks for is missing or not in order.
    """
    left_out: LeftOut = {reason: {} for reason in REASONS}
    candidates = _by_text(texts, _test_texts(map(Path, test_dirs), limits.duplicate_words), left_out)
    by_column = _by_column(path, candidates, limits)
    if limits.random_seed is None:  # the control may keep what a column speaks against, and has to open it
        _leave_out(by_column, left_out, candidates)
    tokens = dict(zip(candidates, count(candidates), strict=True))
    seconds, by_sound = {}, {}
    for utt_id, found in measure_all(path, {utt_id: sources[utt_id] for utt_id in candidates}, limits.max_duration,
                                     num_jobs):
        if isinstance(found, str):
            left_out[UNDECODABLE][utt_id] = found
        else:
            seconds[utt_id] = found.seconds
            by_sound[utt_id] = by_column.get(utt_id) or judge(found, tokens[utt_id], limits)
    _check_undecodable(path, left_out[UNDECODABLE], len(texts), limits)
    kept = list(seconds)
    _leave_out(by_sound, left_out, kept)
    _leave_out(_by_transcript(path, {utt_id: texts[utt_id] for utt_id in kept}, limits), left_out, kept)
    if limits.near_duplicates:
        repeated = near_duplicates({utt_id: texts[utt_id] for utt_id in kept}, limits.near_duplicates)
        _leave_out({utt_id: (DUPLICATE, f"{other}, {100 * similarity(texts[utt_id], texts[other]):.0f}%")
                    for utt_id, other in repeated.items()}, left_out, kept)
    instead_of = {}
    if limits.random_seed is not None:
        instead_of = {reason: len(left_out[reason]) for reason in REASONS if reason not in UNUSABLE}
        left_out |= {reason: {} for reason in instead_of}
        drawn = random.Random(limits.random_seed).sample(sorted(seconds), sum(instead_of.values()))
        kept = list(seconds)
        _leave_out(dict.fromkeys(drawn, (AT_RANDOM, "")), left_out, kept)
    return Sifted(sorted(kept), sum(seconds[utt_id] for utt_id in kept), left_out, instead_of=instead_of)


def _leave_out(reasons: Mapping[str, tuple[str, str]], left_out: LeftOut, kept: list[str]) -> None:
    """Move utterances from `kept` to `left_out`; reasons: {utt-id: (reason, why)}, ("", "") to stay."""
    for utt_id in kept:
        reason, why = reasons.get(utt_id, ("", ""))
        if reason:
            left_out[reason][utt_id] = why
    kept[:] = [utt_id for utt_id in kept if not reasons.get(utt_id, ("", ""))[0]]


def _check_undecodable(path: Path, bad: Mapping[str, str], total: int, limits: Limits) -> None:
    if len(bad) > limits.max_bad_ratio * total:
        utt_id, why = next(iter(bad.items()))
        raise DataError(f"{path}: the audio of {len(bad)} of {total} utterances cannot be decoded, more than "
                        f"--max_bad_ratio {limits.max_bad_ratio:g} allows; the first is {utt_id}: {why}")


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


def _by_text(texts: Mapping[str, str], test_texts: Mapping[str, str], left_out: LeftOut) -> list[str]:
    """The utterances whose text is of use; the others go to `left_out`."""
    candidates = []
    for utt_id, text in texts.items():
        compared = words(text)
        if not compared:
            left_out[EMPTY][utt_id] = text
        elif compared in test_texts:
            left_out[IN_TEST][utt_id] = test_texts[compared]
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
