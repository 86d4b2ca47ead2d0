"""Leave out what is no use for training, and report what went and why: a new data directory (`filter_dir`, stage 1), or
fewer examples of a training (`Filter`).

Each utterance that is left out has one reason, the first of `REASONS` that holds; the report counts all of them and
lists every id. Texts are compared as words: letters and digits, without case, punctuation and accents' encoding.
"""

import json
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from blspkd.audio.samples import AudioSource, duration, load
from blspkd.data.operations.operation import Operation
from blspkd.errors import AudioError, ConfigError, DataError
from blspkd.files import atomic_write
from blspkd.kaldi.data_dir import check_same_ids, read_sources
from blspkd.kaldi.recordings import map_tasks
from blspkd.kaldi.tables import read_table
from blspkd.kaldi.verbs import subset
from blspkd.progress import progress_bar

REPORT = "filter.json"
EMPTY, IN_TEST, UNDECODABLE = "empty text", "text of a test set", "undecodable audio"
TOO_SHORT, TOO_LONG = "too short", "too long"
TOO_FEW, TOO_MANY = "too few tokens per second", "too many tokens per second"
SILENT, CLIPPED = "silence", "clipping"
REASONS = (EMPTY, IN_TEST, UNDECODABLE, TOO_SHORT, TOO_LONG, TOO_FEW, TOO_MANY, SILENT, CLIPPED)

FULL_SCALE = 0.98  # samples at least this large count as clipped (A-law and mu-law end below 1)
_RATE = 16000
_FRAME = 400  # samples, 25 ms
_SHOWN = 5  # ids per reason on the screen
_TASK_UTTERANCES = 32  # in one task of a process
_UTTERANCES_PER_PROCESS = 200  # starting a process takes as long as decoding about as many
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]|"
                   r"[^\s\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")

Measured = tuple[float, float, float]  # seconds, level of the loudest 25 ms in dB below full scale, share clipped


def _limit(default: float, meaning: str):
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class Limits:
    """What is kept; every field is an option of `data_dir filter`."""

    min_duration: float = _limit(0.1, "seconds")
    max_duration: float = _limit(30.0, "seconds")
    min_tokens_per_second: float = _limit(0.2, "tokens of the LLM, or words where none is named")
    max_tokens_per_second: float = _limit(20.0, "tokens of the LLM, or words where none is named")
    silence_db: float = _limit(-50.0, "dB below full scale that the loudest 25 ms must exceed")
    max_clipping: float = _limit(0.01, "share of samples at full scale")
    duplicate_words: int = _limit(1, "test sentences of fewer words may occur in the training text")
    max_bad_ratio: float = _limit(0.1, "share of utterances with undecodable audio from which on the mistake is "
                                       "elsewhere: nothing is written")

    def __post_init__(self):
        for limit in fields(Limits):
            if math.isnan(getattr(self, limit.name)):
                raise ConfigError(f"{limit.name}: is not a number")
        for name in ("max_clipping", "max_bad_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: is a share, from 0 to 1, and not {getattr(self, name):g}")


@dataclass
class Sifted:
    """What was left out: {reason: {utt-id: why}}, every reason of `REASONS`, and what is kept."""

    kept: list[str]
    seconds: float  # of what is kept
    unit: str  # what tokens are
    left_out: dict[str, dict[str, str]]

    def __str__(self) -> str:
        total = len(self.kept) + sum(map(len, self.left_out.values()))
        lines = [f"{len(self.kept)} of {total} utterances kept, {self.seconds / 3600:.2f} hours (tokens: {self.unit})"]
        for reason, found in self.left_out.items():
            shown = ", ".join(f"{utt_id} ({why})" if why else utt_id for utt_id, why in islice(found.items(), _SHOWN))
            lines.append(f"  {reason:<26}{len(found):>8}  {shown}{' ...' if len(found) > _SHOWN else ''}".rstrip())
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
    seconds, left_out = sift(source, texts, sources, lambda ids: count_tokens([texts[utt_id] for utt_id in ids], llm),
                             limits, test_dirs, num_jobs)
    result = Sifted(sorted(seconds), sum(seconds.values()), f"{llm}'s" if llm else "words and CJK characters", left_out)
    if not seconds:
        raise DataError(f"{source}: no utterance is left: {result}")
    subset(source, destination, result.kept)
    with atomic_write(report or destination / REPORT) as file:
        json.dump({"source": str(source), "limits": asdict(limits), "test_dirs": list(map(str, test_dirs)),
                   "tokens": result.unit, "utterances": len(texts), "kept": len(result.kept),
                   "kept_seconds": round(result.seconds, 2),
                   "counts": {reason: len(found) for reason, found in left_out.items()},
                   "left_out": {reason: dict(sorted(found.items())) for reason, found in left_out.items()}},
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
        kept, left_out = sift(data.path, {utt_id: data[utt_id].text for utt_id in tokens},
                              {example.utt_id: example.audio for example in examples},
                              lambda ids: map(tokens.get, ids), limits, limits.test_dirs, limits.num_jobs)
        return ([example for example in examples if example.utt_id in kept],
                {reason: list(ids) for reason, ids in left_out.items()})


def sift(path: Path, texts: Mapping[str, str], sources: Mapping[str, AudioSource],
         count: Callable[[list[str]], Iterable[int]], limits: Limits, test_dirs: Iterable[str | os.PathLike],
         num_jobs: int) -> tuple[dict[str, float], dict[str, dict[str, str]]]:
    """{utt-id: seconds} of what `limits` let pass, and {reason: {utt-id: why}} of the rest.

    count: ids of utterances -> tokens of each. Raises DataError where too much of the audio of `path` is undecodable.
    """
    left_out: dict[str, dict[str, str]] = {reason: {} for reason in REASONS}
    candidates = _by_text(texts, _test_texts(map(Path, test_dirs), limits.duplicate_words), left_out)
    tokens = dict(zip(candidates, count(candidates), strict=True))
    kept = {}
    for utt_id, found in _measure_all(path, {utt_id: sources[utt_id] for utt_id in candidates}, limits, num_jobs):
        reason, why = (UNDECODABLE, found) if isinstance(found, str) else judge(found, tokens[utt_id], limits)
        if reason:
            left_out[reason][utt_id] = why
        else:
            kept[utt_id] = found[0]
    bad = left_out[UNDECODABLE]
    if len(bad) > limits.max_bad_ratio * len(texts):
        utt_id, why = next(iter(bad.items()))
        raise DataError(f"{path}: the audio of {len(bad)} of {len(texts)} utterances cannot be decoded, more than "
                        f"--max_bad_ratio {limits.max_bad_ratio:g} allows; the first is {utt_id}: {why}")
    return kept, left_out


def judge(measured: Measured, tokens: int, limits: Limits) -> tuple[str, str]:
    """(reason, why) to leave out an utterance of that sound and that many tokens; ("", "") to keep it."""
    seconds, level, clipped = measured
    rate = tokens / seconds
    checks = (
        (seconds < limits.min_duration, TOO_SHORT, f"{seconds:.3f} s"),
        (seconds > limits.max_duration, TOO_LONG, f"{seconds:.1f} s"),
        (rate < limits.min_tokens_per_second, TOO_FEW, f"{tokens} in {seconds:.1f} s"),
        (rate > limits.max_tokens_per_second, TOO_MANY, f"{tokens} in {seconds:.1f} s"),
        (level <= limits.silence_db, SILENT, f"{level:.0f} dB"),
        (clipped > limits.max_clipping, CLIPPED, f"{100 * clipped:.1f}%"),
    )
    return next(((reason, why) for holds, reason, why in checks if holds), ("", ""))


def measure(source: AudioSource, max_seconds: float = float("inf")) -> Measured:
    """Seconds, level and clipping of `source`; what is longer than `max_seconds` is not decoded. Raises AudioError."""
    seconds = duration(source)
    if seconds > max_seconds:
        return seconds, 0.0, 0.0
    samples = load(source, _RATE)
    frames = np.pad(samples, (0, -len(samples) % _FRAME)).reshape(-1, _FRAME)
    loudest = float(np.sqrt(np.square(frames).mean(axis=1).max()))
    return seconds, 20 * np.log10(max(loudest, 1e-10)), float((np.abs(samples) >= FULL_SCALE).mean())


def count_tokens(texts: list[str], llm: str = "") -> Iterator[int]:
    """Tokens of each text: those of the tokenizer of `llm`, or words, each CJK character being one."""
    if not llm:
        yield from (len(_WORD.findall(text)) for text in texts)
        return
    from blspkd.data.control_tokens import read_texts  # takes seconds to import
    from blspkd.data.prompts import load_tokenizer

    tokenizer = load_tokenizer(llm)
    for first in range(0, len(texts), 1000):
        yield from map(len, read_texts(tokenizer, texts[first:first + 1000]))


def words(text: str) -> str:
    """`text` as it is compared: "Don't,  STOP!" -> "dont stop"; "" if there is neither a letter nor a digit."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_LETTERS).split())


class _Letters(dict):
    """For str.translate: letters, digits and the marks upon them stay, apostrophes go, all else becomes a space."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if unicodedata.category(character)[0] not in "LNM":
            character = "" if character in "'\u2019\u02bc`" else " "
        return self.setdefault(code, character)


_LETTERS = _Letters()


def _test_texts(test_dirs: Iterable[Path], min_words: int) -> dict[str, str]:
    """{text to compare: where it is from}"""
    found = {}
    for path in test_dirs:
        for utt_id, text in read_table(path / "text", allow_empty=True).items():
            compared = words(text)
            if len(_WORD.findall(compared)) >= max(1, min_words):
                found.setdefault(compared, f"{path}: {utt_id}")
    return found


def _by_text(texts: Mapping[str, str], test_texts: Mapping[str, str], left_out: dict[str, dict[str, str]]) -> list[str]:
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


def _measure_all(path: Path, sources: Mapping[str, AudioSource], limits: Limits, num_jobs: int
                 ) -> Iterator[tuple[str, Measured | str]]:
    """(utt-id, what was measured or what is wrong) in the order of `sources`."""
    items = iter(sources.items())
    tasks = iter(lambda: list(islice(items, _TASK_UTTERANCES)), [])
    bar = progress_bar(f"filter {path}", total=len(sources), unit="utt")
    try:
        for results in map_tasks(partial(_measure_task, limits.max_duration), tasks,
                                 min(num_jobs, len(sources) // _UTTERANCES_PER_PROCESS), path):
            yield from results
            bar.update(len(results))
    finally:
        bar.close()


def _measure_task(max_seconds: float, task: list[tuple[str, AudioSource]]) -> list[tuple[str, Measured | str]]:
    results: list[tuple[str, Measured | str]] = []
    for utt_id, source in task:
        try:
            results.append((utt_id, measure(source, max_seconds)))
        except AudioError as error:
            results.append((utt_id, " ".join(str(error).split())))
    return results
