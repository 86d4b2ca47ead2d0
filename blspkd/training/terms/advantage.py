"""Advantage-weighted regression as a term (Pretraining with Human Preferences, arXiv 2302.08582, section 2)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blspkd.errors import ConfigError
from blspkd.training.terms.term import Step, Term, TermSums

MAX_WEIGHT = 1000.0  # the released code's


class Advantage(Term):
    """1/2 w(A) CE + 1/2 (R - V)^2 at every token of the responses, A = R - V(h), w(A) = min(exp(A / beta), 1000).

    V is linear on the LLM's states h that predict the tokens. The first summand is the cross-entropy
    (`w_response_ce`) with the factor 1/2 w(A); the second is this term. h is a constant to V, and A is one to the
    factor: only CE teaches the model to listen, only the square teaches V. R is what `{name: prefer, mode: mark}` says.
    A KL of the response is not weighted.
    """

    unit = "response"
    scored = True
    reports = ("advantage_weight",)

    @dataclass
    class Options(Term.Options):
        beta: float = 1.0  # the smaller, the more the best examples count

        def __post_init__(self):
            if not 0 < self.beta < math.inf:
                raise ConfigError(f"beta: {self.beta:g} is not a positive number")

    def __init__(self, options: Options, model):
        super().__init__(options, model)
        self.beta = options.beta
        self.value = nn.Linear(model.causal_lm.get_input_embeddings().embedding_dim, 1)
        nn.init.zeros_(self.value.weight)  # V = 0: nothing is drawn, so that all else starts as without this term
        nn.init.zeros_(self.value.bias)

    def ce_factors(self, step: Step) -> Tensor:
        reward, is_scored = self._rewards(step)
        advantage = reward - self.values(step).detach()  # not under no_grad: the states are made here, for all
        return torch.where(is_scored, 0.5 * self._weights(advantage), 1.0)

    def forward(self, step: Step) -> TermSums:
        reward, is_scored = self._rewards(step)
        advantage = reward - self.values(step)  # [M]
        squares = torch.where(is_scored, 0.5 * advantage.square(), 0.0)
        return TermSums(squares.sum(), (torch.where(is_scored, self._weights(advantage.detach()), 0.0).sum(),))

    def values(self, step: Step) -> Tensor:
        """V at the positions of all responses [M], float32; their states get no gradient."""
        with torch.autocast(step.student.device.type, enabled=False):
            return self.value(step.responses.detach().float()).squeeze(1)

    def _weights(self, advantage: Tensor) -> Tensor:
        return (advantage / self.beta).clamp(max=math.log(MAX_WEIGHT)).exp()

    def _rewards(self, step: Step) -> tuple[Tensor, Tensor]:
        """R [M], and where there is one [M] bool."""
        scores = torch.tensor([math.nan if example.score is None else example.score for example in step.batch.examples])
        rewards = step.batch.of_responses(scores.to(step.student.device, non_blocking=True))
        return rewards.nan_to_num(), ~rewards.isnan()
