"""Which examples share a batch, and how they are laid out in tensors.

Sequences are concatenated first and padded once, at the end; batches are filled with sequences of similar total length
up to a budget, so that hardly any LLM position is padding. Among those of similar length, utterances of similar
duration come together, so that little of the audio is padding either.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from blspkd.config import DataConfig
from blspkd.data.example_columns import columns
from blspkd.data.examples import Example, LoadedExample
from blspkd.data.features import pad_windows
from blspkd.data.stretches import ends, halve_largest

POOL_BATCHES = 100  # batches that are sorted together; larger: less padding, smaller: more random


@dataclass
class TokenBatch:
    """Whole sequences, right-padded. Positions of the input are where speech tokens go in."""

    ids: Tensor  # [B, L] int64; at input positions the transcript's tokens
    input_mask: Tensor  # [B, L] bool, on the CPU
    response_mask: Tensor  # [B, L] bool, on the CPU: positions *of* the response's tokens
    lengths: Tensor  # [B] int64, on the CPU
    prefix: np.ndarray | None = None  # [P] ids that all rows begin with; None where their prefixes differ

    def response_positions(self, shifted: bool) -> Tensor:
        """[B, L] bool, on the CPU: positions of the response's tokens; shifted: the ones before, which predict them."""
        return torch.nn.functional.pad(self.response_mask[:, 1:], (0, 1)) if shifted else self.response_mask

    def ids_at(self, mask: Tensor) -> Tensor:
        """[n] ids where a mask [B, L] on the CPU is True; indexing with it would wait for the device."""
        rows = mask.flatten().nonzero().squeeze(1)
        return self.ids.flatten().index_select(0, rows.to(self.ids.device, non_blocking=True))

    def positions(self, shifted: bool, with_input: bool) -> Tensor:
        """[n] int64, on the CPU: where teacher and student are compared, counted through the flattened [B * L].

        All positions of the inputs come first (with_input), then all of the responses (see `response_positions`).
        """
        masks = [self.input_mask] * with_input + [self.response_positions(shifted)]
        return torch.cat([mask.flatten().nonzero().squeeze(1) for mask in masks])


@dataclass
class Batch:
    """What one training step reads."""

    utt_ids: list[str]
    features: Tensor  # [W, F, M] log-mel, [W, S] samples, or [B, T, C] frames if `encoded`
    feature_lengths: Tensor  # [W] int64, on the CPU
    windows: list[int]  # windows of each utterance, sum W
    n_tokens: Tensor  # [B] int64, on the CPU: tokens of the transcripts
    sequences: TokenBatch
    examples: list[Example]
    errors: list[str]  # utterances whose audio could not be read, and why
    weights: Tensor  # [B] float32: factors of the responses' shares in the loss
    encoded: bool = False  # features are cached frames of the speech encoder
    teacher: Tensor | None = None  # [n, D] cached teacher states: all input positions, then all of the responses

    def to(self, device: torch.device) -> "Batch":
        """Move what is computed with; what decides shapes stays on the CPU, so that nobody has to wait for it."""
        sequences = replace(self.sequences, ids=self.sequences.ids.to(device, non_blocking=True))
        teacher = self.teacher if self.teacher is None else self.teacher.to(device, non_blocking=True)
        return replace(self, features=self.features.to(device, non_blocking=True), sequences=sequences,
                       weights=self.weights.to(device, non_blocking=True), teacher=teacher)

    def pin_memory(self) -> "Batch":
        """For the DataLoader: what `to` moves, in memory that a GPU copies from while the program goes on."""
        teacher = self.teacher if self.teacher is None else self.teacher.pin_memory()
        return replace(self, features=self.features.pin_memory(), weights=self.weights.pin_memory(), teacher=teacher,
                       sequences=replace(self.sequences, ids=self.sequences.ids.pin_memory()))

    def of_responses(self, values: Tensor) -> Tensor:
        """Values of the examples [B] -> the same at the positions of all responses, in their order [M]."""
        lengths = [len(example.response) for example in self.examples]
        repeats = torch.tensor(lengths, dtype=torch.int64).to(values.device, non_blocking=True)
        return values.repeat_interleave(repeats, output_size=sum(lengths))


def collate(loaded: list[LoadedExample]) -> Batch:
    """Pad and stack; examples with an error are left out and reported in `errors`."""
    good = [item for item in loaded if item.features is not None]
    examples = [item.example for item in good]
    windows = [window for item in good for window in item.features.windows]
    return Batch(
        utt_ids=[example.utt_id for example in examples],
        features=pad_windows(windows) if windows else torch.zeros(0, 0),
        feature_lengths=torch.tensor([length for item in good for length in item.features.lengths]),
        windows=[len(item.features.windows) for item in good],
        n_tokens=torch.tensor([example.n_tokens for example in examples]),
        sequences=lay_out(examples, [example.n_tokens for example in examples]),
        examples=examples,
        errors=[item.error for item in loaded if item.features is None],
        weights=torch.tensor([example.weight for example in examples], dtype=torch.float32),
        encoded=any(item.encoded for item in good),
        teacher=_teacher_states(good),
    )


def _teacher_states(items: list[LoadedExample]) -> Tensor | None:
    if not items or items[0].teacher is None:
        return None
    parts = [item.teacher.tensor_split((-len(item.example.response),)) for item in items]
    return torch.cat([inputs for inputs, _ in parts] + [responses for _, responses in parts])


def lay_out(examples: list[Example], n_inputs: list[int]) -> TokenBatch:
    """Concatenate prefix, n_inputs[b] input positions, suffix and response of every example, and pad at the end.

    Where n_inputs[b] is not the transcript's length (an adapter with a rate of its own, or that counts for itself) the
    input ids are zeros.
    """
    rows, inputs, responses = [], [], []
    for example, n in zip(examples, n_inputs, strict=True):
        middle = example.input if n == example.n_tokens else np.zeros(n, dtype=np.int32)
        rows.append(np.concatenate([example.prefix, middle, example.suffix, example.response]))
        inputs.append((len(example.prefix), len(example.prefix) + n))
        responses.append((len(rows[-1]) - len(example.response), len(rows[-1])))
    longest = max(map(len, rows), default=0)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, :len(row)] = torch.from_numpy(row)
    return TokenBatch(ids=ids, input_mask=_spans(inputs, longest), response_mask=_spans(responses, longest),
                      lengths=torch.tensor([len(row) for row in rows]), prefix=_shared_prefix(examples))


def _shared_prefix(examples: list[Example]) -> np.ndarray | None:
    first = examples[0].prefix if examples else None
    return first if all(np.array_equal(example.prefix, first) for example in examples) else None


def _spans(spans: list[tuple[int, int]], size: int) -> Tensor:
    """[B, size] bool: True from start to end of each span."""
    starts, ends = torch.tensor(spans).view(-1, 2).unbind(1)
    positions = torch.arange(size)
    return (positions >= starts[:, None]) & (positions < ends[:, None])


class BatchPlan:
    """The batches of a whole training run, in order: a batch sampler of (epoch, index) lists for one rank.

    Every epoch is shuffled anew by (seed, epoch), and drawn anew where examples have a `rate`; within pools of
    POOL_BATCHES batches examples are sorted by length, then stretch by stretch by duration, and cut under the budgets
    of `config`. Batches that neighbour in length make up one optimiser step, so that no rank waits long for another;
    the steps are shuffled. The plan depends on nothing else: a run that goes on from step k skips the batches before it
    (which loads nothing) and sees the very ones that it would have seen, and two ranks see what one rank sees with
    twice the accumulation.
    """

    def __init__(self, examples: Sequence[Example], config: DataConfig, seed: int, num_batches: int, rank: int = 0,
                 num_ranks: int = 1, accumulation: int = 1):
        """num_batches: of this rank, over all epochs; accumulation: batches of a rank per optimiser step."""
        sizes = columns(examples)
        self.lengths, self.durations, self.rates = sizes.lengths, sizes.durations, sizes.rates
        self.config, self.seed = config, seed
        self.num_batches, self.rank, self.num_ranks = num_batches, rank, num_ranks
        self.batches_per_step = num_ranks * accumulation

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        stop = self.num_batches * self.num_ranks
        for number, (epoch, batch) in enumerate(self._stream()):
            if number >= stop:
                return
            if number % self.num_ranks == self.rank:
                yield [(epoch, index) for index in batch.tolist()]

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """All batches of one epoch, as arrays of indices."""
        generator = np.random.default_rng((self.seed, epoch))
        order = self._heard(generator.permutation(len(self.lengths)), generator)
        pool = POOL_BATCHES * self.config.batch_utterances
        batches = []
        for first in range(0, len(order), pool):
            batches += self._cut(self._sort(order[first:first + pool]))
        size = self.batches_per_step
        batches = halve_largest(batches, size)  # the epoch ends with a whole step
        steps = [batches[first:first + size] for first in range(0, len(batches), size)]
        return [batch for step in generator.permutation(len(steps)) for batch in steps[step]]

    def _heard(self, order: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Those of the shuffled examples that the epoch hears: of n with the same rate < 1, rate * n.

        What is left of a whole number is made up over the epochs: 1 of 4 with a rate of 0.3 in most, 2 in every fifth.
        """
        heard = np.ones(len(order), dtype=bool)
        for rate in np.unique(self.rates[self.rates < 1]):
            places = np.flatnonzero(self.rates[order] == rate)  # shuffled already, so that the first are drawn
            heard[places[int(rate * len(places) + generator.random()):]] = False
        return order[heard]

    def _stream(self) -> Iterator[tuple[int, np.ndarray]]:
        """(epoch, indices) of the batches of all ranks."""
        return ((epoch, batch) for epoch in itertools.count() for batch in self.epoch(epoch))

    def _sort(self, indices: np.ndarray) -> np.ndarray:
        """By length in stretches of a few batches, which are sorted by duration: up, down, up ...

        n batches make about 3 sqrt(n) stretches: of one batch each, audio would hardly be sorted, of many, length not.
        """
        indices = indices[np.argsort(self.lengths[indices], kind="stable")]
        batches = len(self._ends(indices))
        parts = np.array_split(indices, min(batches, round(3 * math.sqrt(batches))))
        stretches = [part[np.argsort(self.durations[part], kind="stable")] for part in parts]
        # Neighbours are alike also where a batch holds the end of one stretch and the start of the next.
        return np.concatenate([part[::-1] if i % 2 else part for i, part in enumerate(stretches)])

    def _cut(self, indices: np.ndarray) -> list[np.ndarray]:
        """Consecutive stretches that stay under the budgets, padding included."""
        last = self._ends(indices)
        return [indices[first:end] for first, end in zip([0, *last[:-1]], last, strict=True)]

    def _ends(self, indices: np.ndarray) -> list[int]:
        return ends(self.lengths[indices], self.durations[indices], self.config)


def batches_per_epoch(examples: Sequence[Example], config: DataConfig, seed: int, num_ranks: int) -> int:
    """Batches of one rank in the first epoch (later ones differ by a few)."""
    return math.ceil(len(BatchPlan(examples, config, seed, 1).epoch(0)) / num_ranks)
