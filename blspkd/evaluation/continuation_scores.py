"""R in [0, 1] of every continuation, by rules: `utt2score`, for the data operation `prefer` (arXiv 2302.08582).

    empty     0 where nothing but punctuation was written
    looped    0 where a phrase is repeated in a row
    copied    0 where much of the transcript or the instruction stands in it
    length    min(n / m, m / n): n words, m the median of all continuations that no rule above has refused
    foreign   the share of its words that some transcript of the directory has, for the wrong language

R is their product. What empty, looped and copied mean is said where answers are judged (scorers/health.py). These are
rules, not a learned reward: whoever has a better measure writes `utt2score` himself.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from blspkd.config import PromptConfig
from blspkd.config_file import from_dict, nearest
from blspkd.errors import ConfigError, DataError
from blspkd.evaluation.scorers.health import Copied, Empty, Flag, Looped, units
from blspkd.files import read_json
from blspkd.kaldi.tables import read_continuations, read_table, write_table

FLAGS: dict[str, type[Flag]] = {"empty": Empty, "looped": Looped, "copied": Copied}
RULES = (*FLAGS, "length", "foreign")
USUAL = ("empty", "looped", "copied", "length")  # foreign needs transcripts that hold most words of their language


@dataclass(frozen=True)
class ContinuationScores:
    """R by utterance, and how many continuations each of FLAGS refused."""

    scores: dict[str, float]
    refused: dict[str, int]

    def __str__(self) -> str:
        refused = ", ".join(f"{count} {rule}" for rule, count in self.refused.items())
        mean = sum(self.scores.values()) / len(self.scores)
        return f"{len(self.scores)} scores, mean {mean:.3f}" + (f"; 0 because of: {refused}" if refused else "")


def write_scores(data_dir: str | Path, rules: Sequence[str] = USUAL, table: str = "utt2score") -> ContinuationScores:
    """Score the continuations of a data directory into its file `table`.

    Raises ConfigError for an unknown rule, DataError for a directory without continuations.
    """
    path = Path(data_dir)
    continuations = read_continuations(path / "continuation")
    if not continuations:
        raise DataError(f"{path / 'continuation'}: is empty; run stage 2 first")
    transcripts = read_table(path / "text")
    stray = [utt_id for utt_id in continuations if utt_id not in transcripts]
    if stray:
        raise DataError(f"{path / 'continuation'}: {stray[0]} has no transcript in {path / 'text'}; fix the directory")
    info = path / "continuation.info.json"
    prompt = from_dict(PromptConfig, read_json(info).get("prompt") or {"instruction": ""}, str(info))
    scored = score(continuations, transcripts, prompt.instructions or [prompt.instruction], rules)
    write_table(path / table, {utt_id: f"{value:.4f}" for utt_id, value in scored.scores.items()})
    return scored


def score(continuations: Mapping[str, str], transcripts: Mapping[str, str], instructions: Collection[str] = (),
          rules: Sequence[str] = USUAL) -> ContinuationScores:
    """R of each continuation; instructions: those that may have been asked. Raises ConfigError for an unknown rule."""
    for rule in rules:
        if rule not in RULES:
            raise ConfigError(f"rules: there is no '{rule}'; {nearest(rule, RULES)}")
    flags = {rule: kind() for rule, kind in FLAGS.items() if rule in rules}
    refused = dict.fromkeys(flags, 0)
    words, scores = {}, {}
    for utt_id, text in continuations.items():
        words[utt_id], scores[utt_id] = units(text), 1.0
        rows = [{"hypothesis": text, "reference": "", "transcript": transcripts[utt_id], "instruction": instruction}
                for instruction in instructions or [""]]
        for rule, flag in flags.items():
            if any(map(flag.is_bad, rows)):
                refused[rule] += 1
                scores[utt_id] = 0.0
    usual = median([len(words[utt_id]) for utt_id, value in scores.items() if value] or [0])
    known = {unit for text in transcripts.values() for unit in units(text)}
    for utt_id, found in words.items():
        if "length" in rules:
            scores[utt_id] *= min(len(found), usual) / max(len(found), usual, 1)
        if "foreign" in rules:
            scores[utt_id] *= sum(unit in known for unit in found) / max(len(found), 1)
    return ContinuationScores(scores, refused)
