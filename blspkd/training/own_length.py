"""Steps in which the LLM reads as many speech tokens as the adapter counts itself (not in arXiv 2405.19041).

With the transcript's number in all of training, the LLM's side never sees a token too many or too few, and every wrong
number at inference is new to it. The response KL needs no number to be right, so that some steps can do without: they
have no input KL and no term that compares tokens with the transcript's one by one.

Such steps are drawn by seed and number of the step, never by rank or micro-batch: as everywhere, ranks and
accumulation may be exchanged, also where a run goes on.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from blspkd.data.batching import Batch
from blspkd.files import text_digest

STREAM = 1  # beside BatchPlan's draws, which are by (seed, epoch)


@dataclass(frozen=True)
class OtherLength:
    """Numbers of speech tokens that are not the transcripts'."""

    n_tokens: Tensor | None  # [B], on the CPU; None: the adapter's own


@dataclass(frozen=True)
class OwnLength:
    """Which steps have another number of tokens than the transcripts, and what it is."""

    share: float  # of the optimiser steps, drawn one by one
    source: Literal["adapter", "shift"]
    seed: int

    def drawn(self, step: int | None) -> bool:
        """Whether this optimiser step (counted from 0) is one; None: validation, which is none."""
        return step is not None and self.share > 0 and \
            np.random.default_rng((self.seed, step, STREAM)).random() < self.share

    def of(self, batch: Batch, step: int | None) -> OtherLength | None:
        """What the speech of this micro-batch gets in the place of the transcripts' numbers; None: nothing."""
        if not self.drawn(step):
            return None
        if self.source == "adapter":
            return OtherLength(None)
        changes = [1 if int(text_digest(f"{self.seed} {step} {utt_id}")[:8], 16) % 2 else -1 for utt_id in
                   batch.utt_ids]
        shifted = batch.n_tokens + torch.tensor(changes, dtype=torch.int64)
        return OtherLength(torch.where(shifted < 1, batch.n_tokens + 1, shifted))
