"""Every speech token nearer to its text token's embedding than to those of other tokens (not in arXiv 2405.19041).

The embedding loss alone draws a token that might be one of several to their mean, which is none of them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from blspkd.errors import ConfigError
from blspkd.models.nearest import TEMPERATURE, choice_logits
from blspkd.models.speech_llm import SpeechLlm
from blspkd.training.terms.term import Step, Term, TermSums


class Contrast(Term):
    """Cross-entropy of the choice by distance among the different tokens of the micro-batch's transcripts.

    Its choices grow with the micro-batch: unlike the other terms, it depends on how a batch is split.
    """

    unit = "input"
    needs = frozenset({"aligned"})
    reports = ("contrast_top1",)

    @dataclass
    class Options(Term.Options):
        temperature: float = TEMPERATURE  # of squared distances relative to the embeddings' mean squared norm

        def __post_init__(self):
            if self.temperature <= 0:
                raise ConfigError(f"temperature: {self.temperature} is not a positive number")

    def __init__(self, options: Options, model: SpeechLlm):
        super().__init__(options, model)
        self.temperature = options.temperature

    def forward(self, step: Step) -> TermSums:
        said = np.concatenate([example.input for example in step.batch.examples])  # `input_ids`, on the CPU
        ids, right = (torch.from_numpy(values).long().to(step.input_ids.device, non_blocking=True)
                      for values in np.unique(said, return_inverse=True))
        choices = step.model.causal_lm.get_input_embeddings()(ids)  # [K, D]
        logits = choice_logits(step.speech.rows(), choices, step.model.embedding_rms**2, self.temperature)  # [n, K]
        is_right = logits.argmax(1) == right
        return TermSums(cross_entropy(logits, right, reduction="sum"), (is_right.sum(),))
