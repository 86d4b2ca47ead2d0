"""Learn from good responses more than from bad ones (Pretraining with Human Preferences, arXiv 2302.08582).

`utt2score` holds R in [0, 1] of every utterance's continuation; t is the `quantile` of R over the examples, and what
is below t is bad. The paper's five objectives (section 2):

    filter   filtering: bad examples are left out
    tag      conditional training: `good` or `bad` in front of the instruction, 1 % of the examples without a word
    weight   reward-weighted regression: w = min(exp(R / beta), 1000) / mean, a factor of the response's KL and CE
    mark     unlikelihood and advantage-weighted regression: the terms of the loss of these names need to know R, and
             what is bad; the examples stay as they are
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from blspkd.data.operations.operation import Operation, side_table
from blspkd.data.tags import Tagger
from blspkd.errors import ConfigError, DataError
from blspkd.kaldi.tables import read_table

QUALITY, GOOD, BAD = "quality", "good", "bad"  # the tag and its values
MAX_WEIGHT = 1000.0  # the released code's


class Prefer(Operation):
    """By R; examples of an alignment, which have no response, stay as they are."""

    @dataclass(frozen=True)
    class Options(Operation.Options):
        mode: Literal["filter", "tag", "weight", "mark"] = "filter"
        quantile: float = 0.3  # share of the examples that is bad; of filter, tag and mark
        beta: float = 1.0  # of weight: the smaller, the more the best examples count
        untagged: float = 0.01  # of tag: share of the examples without a tag
        table: str = "utt2score"  # file of the data directory

        def __post_init__(self):
            side_table(self.table)
            for name in ("quantile", "untagged"):
                if not 0 <= getattr(self, name) < 1:
                    raise ConfigError(f"{name}: {getattr(self, name):g} is no share, from 0 to below 1")
            if not 0 < self.beta < math.inf:
                raise ConfigError(f"beta: {self.beta:g} is not a positive number")

    def apply(self, examples, data, random):
        if not any(len(example.response) for example in examples):  # of an alignment
            return examples, {}
        path, options = data.path / self.options.table, self.options
        table = read_scores(path)
        missing = [example.utt_id for example in examples if example.utt_id not in table]
        if missing:
            raise DataError(f"{path}: {len(missing)} utterances have no score, the first is {missing[0]}; score their "
                            "continuations (utils/data_dir.sh score), or add the lines")
        scores = np.array([table[example.utt_id] for example in examples])
        if options.mode == "weight":
            weights = reward_weights(scores, options.beta)
            return [replace(example, weight=example.weight * float(weight))
                    for example, weight in zip(examples, weights, strict=True)], {
                        f"weighted {weights.min():.3g} to {weights.max():.3g}": [item.utt_id for item in examples]}
        threshold = np.quantile(scores, options.quantile)
        bad = scores < threshold
        if options.quantile and not bad.any():
            raise DataError(f"{path}: no score is below the {options.quantile:g} quantile, which is {threshold:g}: too "
                            "many utterances have the lowest score; set another quantile")
        told = {f"score below {threshold:.4g}": [example.utt_id for example, is_bad in zip(examples, bad, strict=True)
                                                if is_bad]}
        if options.mode == "filter":
            return [example for example, is_bad in zip(examples, bad, strict=True) if not is_bad], told
        if options.mode == "mark":
            return [replace(example, score=float(score), is_bad=bool(is_bad))
                    for example, score, is_bad in zip(examples, scores, bad, strict=True)], told
        retag, untagged = Tagger(self.prompt, data), random.random(len(examples)) < options.untagged
        tagged = [example if without else retag(example, ((QUALITY, BAD if is_bad else GOOD),))
                  for example, is_bad, without in zip(examples, bad, untagged, strict=True)]
        return tagged, told | {"untagged": [example.utt_id for example, without in zip(examples, untagged, strict=True)
                                            if without]}


def reward_weights(scores: np.ndarray, beta: float) -> np.ndarray:
    """min(exp(R / beta), 1000), divided by its mean over all examples; scores: [n]."""
    weights = np.exp(np.minimum(scores / beta, math.log(MAX_WEIGHT)))
    return weights / weights.mean()


def read_scores(path: Path) -> dict[str, float]:
    """{utt-id: R}. Raises DataError naming file and line for what is no number from 0 to 1."""
    scores = {}
    for number, (utt_id, value) in enumerate(read_table(path).items(), 1):  # which has neither blank lines nor doubles
        try:
            scores[utt_id] = float(value)
        except ValueError:
            scores[utt_id] = math.nan
        if not 0 <= scores[utt_id] <= 1:
            raise DataError(f"{path}:{number}: {utt_id}: '{value}' is no score, a number from 0 (bad) to 1 (good)")
    return scores
