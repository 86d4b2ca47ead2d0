"""Domains in asked proportions: of what an epoch hears, each has the share of its weight.

    data:
      operations:
      - {name: mix, weights: {clean: 1, noisy: 2}}   # a third clean, two thirds noisy, however many there are

The domain of an utterance stands in `utt2domain`. An epoch stays as long as it is without: a domain gets
weight / sum of weights of it. One that has more utterances than that is drawn from without replacement, anew for
every epoch; one that has fewer is heard whole as often as it fits, and what is left of its share is drawn likewise. So
nothing is heard twice in an epoch unless its domain is asked for more often than it has utterances, and then all of
them are about equally often.

An operation is applied once, so it does not draw: it repeats examples, and gives the last of each a `rate` below 1,
by which the plan of the batches (`data/batching.py`) draws, by seed and epoch. Repeated examples are augmented
differently.
"""

import math
from dataclasses import dataclass, field, replace

from blspkd.data.operations.operation import Operation
from blspkd.errors import ConfigError, DataError
from blspkd.kaldi.columns import parse_word, read_column

_DIGITS = 9  # of a rate: 2.9999999999 is 3


class Mix(Operation):
    """P(domain) is proportional to its weight (A Pretrainer's Guide, arXiv 2305.13169, varies what domains go in)."""

    @dataclass(frozen=True)
    class Options(Operation.Options):
        weights: dict[str, float] = field(default_factory=dict)  # every domain's; 0: left out
        table: str = "utt2domain"  # or another of the directory: utt2lang, utt2spk

        def __post_init__(self):
            if not all(0 <= weight < math.inf for weight in self.weights.values()) or not any(self.weights.values()):
                raise ConfigError(f"weights: {self.weights}: name every domain's, 0 or more, and not all of them 0")

    def apply(self, examples, data, random):
        weights, path = self.options.weights, data.path / self.options.table
        domains = read_column(path, dict.fromkeys(example.utt_id for example in examples), parse_word)
        mass = dict.fromkeys(weights, 0.0)  # utterances of an epoch
        for example in examples:
            domain = domains[example.utt_id]
            if domain not in mass:
                raise DataError(f"{path}: {example.utt_id}: domain '{domain}' has no weight; weights has "
                                f"{', '.join(weights)}: name it there, or give it 0")
            mass[domain] += example.rate
        for domain, there in mass.items():
            if not there and weights[domain]:
                raise DataError(f"{path}: no utterance to train on has the domain '{domain}', to which weights gives "
                                f"{weights[domain]:g}; it has {', '.join(sorted(set(domains.values())))}")
        scale = sum(mass.values()) / sum(weights.values())
        times = {domain: weights[domain] * scale / there for domain, there in mass.items() if there}
        mixed = [repeated for example in examples
                 for repeated in _repeat(example, example.rate * times[domains[example.utt_id]])]
        report: dict[str, list[str]] = {}
        for utt_id, domain in domains.items():
            report.setdefault(f"{domain}, {times[domain]:.3g} times an epoch", []).append(utt_id)
        return mixed, report


def _repeat(example, times: float):
    """The example so often that an epoch hears it `times` times on average."""
    times = round(times, _DIGITS)
    whole = int(times)
    if whole:
        yield from [replace(example, rate=1.0)] * whole
    if times > whole:
        yield replace(example, rate=round(times - whole, _DIGITS))
