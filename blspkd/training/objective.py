"""One step's loss: distillation (arXiv 2405.19041, section 3.1) and the terms of `loss.terms`."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from blspkd.config import LossConfig
from blspkd.data.batching import Batch
from blspkd.errors import ConfigError, ModelError
from blspkd.models.speech_llm import SpeechLlm
from blspkd.training.own_length import OwnLength
from blspkd.training.terms import make_terms
from blspkd.training.terms.kd import KnowledgeDistillation
from blspkd.training.terms.term import Step

TERMS_FILE = "terms.safetensors"
COUNT = "count_accuracy"  # utterances with as many speech tokens as the transcript has tokens
NEAREST = "nearest_top1"  # speech tokens that are nearest to the right text embedding; in validation only
PERCENT = ("accuracy", "top1")  # means of 0 and 1, by the ends of their names


@dataclass
class Denominators:
    """Numbers of input positions, response positions and utterances that the losses are means over.

    They are counted over all accumulated micro-batches and all ranks, so that any split gives the loss of one big
    batch.
    """

    input: float
    response: float
    utterances: float

    def __add__(self, other: "Denominators") -> "Denominators":
        return Denominators(self.input + other.input, self.response + other.response,
                            self.utterances + other.utterances)

    @classmethod
    def of(cls, batches: list[Batch]) -> "Denominators":
        return cls(input=float(sum(int(batch.n_tokens.sum()) for batch in batches)),
                   response=float(sum(int(batch.sequences.response_mask.sum()) for batch in batches)),
                   utterances=float(sum(len(batch.utt_ids) for batch in batches)))


@dataclass
class Objective:
    """The loss of a micro-batch, and the sums that its means are made of."""

    loss: Tensor  # scalar
    sums: Tensor  # [len(KdObjective.units)] over positions or utterances, no gradient


class KdObjective(nn.Module):
    """SpeechLlm with its loss, as one module, so that DistributedDataParallel sees a single forward call."""

    def __init__(self, speech_llm: SpeechLlm, config: LossConfig, seed: int = 0):
        """seed: of the steps with `own_length`."""
        super().__init__()
        self.speech_llm = speech_llm
        self.own_length = OwnLength(config.own_length, config.own_length_by, seed)
        self.terms = make_terms(config, speech_llm)
        self.distillation = KnowledgeDistillation(config, speech_llm.adapter.aligned) if config.distils else None
        self.negatives = any(term.negatives for term in self.terms.values())
        self.units = {}  # what is summed, and which denominator makes it a mean
        self.of_aligned = {"input_kl", "input_top1"}  # those of steps with the transcripts' numbers of tokens only
        if self.distillation:
            self.units |= self.distillation.units
        for name, term in self.terms.items():
            for logged in (name, *term.reports):
                if logged in (*self.units, COUNT, NEAREST):
                    raise ConfigError(f"loss: terms: {name}: '{logged}' is logged by another part of the loss already; "
                                      "rename it")
                self.units[logged] = term.unit
                if "aligned" in term.needs:
                    self.of_aligned.add(logged)
        if speech_llm.adapter.aligned:
            self.units |= {COUNT: "utterances", NEAREST: "input"}

    def forward(self, batch: Batch, denominators: Denominators, step_number: int | None = None) -> Objective:
        """Loss of one micro-batch, to be summed over micro-batches and ranks.

        step_number: optimiser steps before this one; None in validation.
        """
        step = Step(self.speech_llm, batch, self.own_length.of(batch, step_number))
        loss, sums = 0.0, []
        if self.distillation:
            distilled = self.distillation(step, denominators.input, denominators.response, self._ce_factors(step))
            loss, sums = distilled.loss, [*distilled.details]
        for term in self.terms.values():
            if "aligned" in term.needs and not step.aligned:
                loss = loss + _untouched(term)
                sums += [torch.zeros(())] * (1 + len(term.reports))
                continue
            found = term(step)
            loss = loss + term.weight * found.loss / getattr(denominators, term.unit)
            sums += [found.loss, *found.details]
        if COUNT in self.units:
            predicted = step.speech.n_predicted
            sums.append((predicted == batch.n_tokens.to(predicted.device)).sum())
            sums.append(self._read_right(step))
        return Objective(loss, torch.stack([value.detach().float().to(loss.device) for value in sums]))

    def _ce_factors(self, step: Step) -> Tensor | None:
        """What the terms leave of the response's cross-entropy [M]; None: all of it."""
        factors = [found for term in self.terms.values() if (found := term.ce_factors(step)) is not None]
        return torch.stack(factors).prod(0) if factors else None

    def means(self, sums: Tensor, counts: Denominators, training: bool, of_aligned: Denominators | None = None
              ) -> dict[str, float]:
        """Means by name; what is not computed (in training: without a weight) is left out.

        of_aligned: counts of the steps with the transcripts' numbers of tokens; None: that is all of them.
        """
        of_aligned = of_aligned or counts
        computed = set(self.units)
        if self.distillation:
            computed = self.distillation.computed(training) | (computed - self.distillation.units.keys())
        if training:
            computed -= {NEAREST}
        else:
            computed -= {logged for name, term in self.terms.items() if term.scored for logged in (name, *term.reports)}
        if not of_aligned.utterances:
            computed -= self.of_aligned
        means = {name: float(value) / max(1.0, getattr(of_aligned if name in self.of_aligned else counts, unit))
                 for (name, unit), value in zip(self.units.items(), sums, strict=True)}
        return {name: 100 * value if name.endswith(PERCENT) else value
                for name, value in means.items() if name in computed}

    def _read_right(self, step: Step) -> Tensor:
        """Validation: speech tokens whose nearest text embedding is the transcript's."""
        if self.training:
            return torch.zeros(())
        with torch.no_grad():
            ids, _ = self.speech_llm.nearest(step.speech.rows())
            return (ids == step.input_ids).sum()

    def save_pretrained(self, folder: str | Path) -> None:
        """The speech LLM's folder, with the weights of terms that have some."""
        self.speech_llm.save_pretrained(folder, self._weights_of_terms())

    def check_whole(self) -> None:
        """Raises ModelError where a trained tensor has no elements."""
        self.speech_llm.check_whole(self._weights_of_terms())

    def _weights_of_terms(self) -> dict[str, dict[str, Tensor]]:
        weights = {name: value.detach().contiguous() for name, value in self.terms.state_dict().items()}
        return {TERMS_FILE: weights} if weights else {}

    def load_trained(self, folder: str | Path) -> None:
        """Load what `save_pretrained` wrote. Raises ModelError."""
        self.speech_llm.load_trained(folder)
        if not self.terms.state_dict():
            return
        path = Path(folder) / TERMS_FILE
        try:
            self.terms.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ModelError(f"{path}: the weights of the loss terms cannot be loaded: {error}") from None


def _untouched(term: nn.Module) -> Tensor | float:
    """0, as a function of the term's weights: ranks add up gradients of all that is trained, in every step."""
    return sum((0 * weight.sum() for weight in term.parameters()), 0.0)
