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
from blspkd.data.operations.verdicts import (
    AT_RANDOM,
    DUPLICATE,
    REASONS,
    UNDECODABLE,
    UNUSABLE,
    Verdict,
    judge_all,
    judge_dir,
)
from blspkd.errors import DataError
from blspkd.files import atomic_write
from blspkd.kaldi.verbs import subset

REPORT = "filter.json"
SHOWN = 5  # ids per reason on the screen

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
        return summary(len(self.kept), self.seconds, self.unit,
                       {reason: (len(found), list(islice(found.items(), SHOWN)))
                        for reason, found in self.left_out.items()}, self.instead_of)


def summary(kept: int, seconds: float, unit: str, left_out: Mapping[str, tuple[int, list[tuple[str, str]]]],
            instead_of: Mapping[str, int]) -> str:
    """For the screen; left_out: how many for each reason, and the first of them with what speaks against them."""
    total = kept + sum(count for count, _ in left_out.values())
    lines = [f"{kept} of {total} utterances kept, {seconds / 3600:.2f} hours (tokens: {unit})"]
    for reason, (count, found) in left_out.items():
        shown = ", ".join(f"{utt_id} ({why})" if why else utt_id for utt_id, why in found)
        lines.append(f"  {reason:<35}{count:>8}  {shown}{' ...' if count > SHOWN else ''}".rstrip())
    if instead_of:
        rules = ", ".join(f"{count} {reason}" for reason, count in instead_of.items() if count)
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
    nothing is written. A large directory is filtered in pieces (`filter_pieces`).
    """
    source, destination = Path(source), Path(destination)
    test_dirs = [Path(path) for path in test_dirs]
    texts, verdicts = judge_dir(source, limits, test_dirs, llm, num_jobs)
    result = settle(source, texts, verdicts, limits)
    result.unit = unit_of(llm)
    if not result.kept:
        raise DataError(f"{source}: no utterance is left: {result}")
    subset(source, destination, result.kept)
    with atomic_write(report or destination / REPORT) as file:
        json.dump({**report_head(source, limits, test_dirs, result.unit, len(texts), len(result.kept), result.seconds,
                                 {reason: len(found) for reason, found in result.left_out.items()}, result.instead_of),
                   "left_out": {reason: dict(sorted(found.items())) for reason, found in result.left_out.items()}},
                  file, ensure_ascii=False, indent=1)
    return result


def unit_of(llm: str) -> str:
    """What is counted."""
    return f"{llm}'s" if llm else "words and CJK characters"


def report_head(source: Path, limits: Limits, test_dirs: Iterable[Path], unit: str, utterances: int, kept: int,
                seconds: float, counts: Mapping[str, int], instead_of: Mapping[str, int]) -> dict:
    """The report, but for the utterances that were left out."""
    return {"source": str(source), "limits": asdict(limits), "test_dirs": list(map(str, test_dirs)), "tokens": unit,
            "utterances": utterances, "kept": kept, "kept_seconds": round(seconds, 2), "counts": dict(counts),
            "instead_of": dict(instead_of)}


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
    verdicts = judge_all(path, texts, sources, count, limits, [Path(test_dir) for test_dir in test_dirs], num_jobs)
    return settle(path, texts, verdicts, limits)


def settle(path: Path, texts: Mapping[str, str], verdicts: Mapping[str, Verdict], limits: Limits) -> Sifted:
    """What only all utterances together can tell: near-duplicates, the control, and whether too much is undecodable."""
    left_out: LeftOut = {reason: {} for reason in REASONS}
    seconds = {utt_id: verdict.seconds for utt_id, verdict in verdicts.items() if verdict.seconds is not None}
    kept = list(verdicts)
    _leave_out({utt_id: (verdict.reason, verdict.why) for utt_id, verdict in verdicts.items()}, left_out, kept)
    check_undecodable(path, len(left_out[UNDECODABLE]), next(iter(left_out[UNDECODABLE].items()), None), len(texts),
                      limits)
    if limits.near_duplicates:
        _leave_out(repeated({utt_id: texts[utt_id] for utt_id in kept}, limits), left_out, kept)
    instead_of = {}
    if limits.random_seed is not None:
        instead_of = {reason: len(left_out[reason]) for reason in REASONS if reason not in UNUSABLE}
        left_out |= {reason: {} for reason in instead_of}
        drawn = random.Random(limits.random_seed).sample(sorted(seconds), sum(instead_of.values()))
        kept = list(seconds)
        _leave_out(dict.fromkeys(drawn, (AT_RANDOM, "")), left_out, kept)
    return Sifted(sorted(kept), sum(seconds[utt_id] for utt_id in kept), left_out, instead_of=instead_of)


def repeated(texts: Mapping[str, str], limits: Limits) -> dict[str, tuple[str, str]]:
    """{utt-id: (reason, why)} of those that say nearly the same as one before them."""
    return {utt_id: (DUPLICATE, f"{other}, {100 * similarity(texts[utt_id], texts[other]):.0f}%")
            for utt_id, other in near_duplicates(texts, limits.near_duplicates).items()}


def _leave_out(reasons: Mapping[str, tuple[str, str]], left_out: LeftOut, kept: list[str]) -> None:
    """Move utterances from `kept` to `left_out`; reasons: {utt-id: (reason, why)}, ("", "") to stay."""
    for utt_id in kept:
        reason, why = reasons.get(utt_id, ("", ""))
        if reason:
            left_out[reason][utt_id] = why
    kept[:] = [utt_id for utt_id in kept if not reasons.get(utt_id, ("", ""))[0]]


def check_undecodable(path: Path, bad: int, first: tuple[str, str] | None, total: int, limits: Limits) -> None:
    """Raise DataError where `bad` utterances of `total` are more than allowed; first: one of them, and why."""
    if first and bad > limits.max_bad_ratio * total:
        raise DataError(f"{path}: the audio of {bad} of {total} utterances cannot be decoded, more than "
                        f"--max_bad_ratio {limits.max_bad_ratio:g} allows; the first is {first[0]}: {first[1]}")
