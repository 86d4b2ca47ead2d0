"""Unlikelihood as a term: bad responses shall not be said (Pretraining with Human Preferences, arXiv 2302.08582)."""

import torch

from blspkd.losses.unlikelihood import unlikelihood_loss
from blspkd.training.terms.term import Step, Term, TermSums


class Unlikelihood(Term):
    """-sum_good log p - a sum_bad log max(1 - p, 1e-20), over the tokens of the responses.

    The first sum is the cross-entropy (`w_response_ce`), from which bad examples are taken; the second is this term,
    a its weight. Bad is what `{name: prefer, mode: mark}` says. A KL of the response still holds for bad examples too.
    """

    unit = "response"
    scored = True

    def ce_factors(self, step: Step) -> torch.Tensor:
        good = torch.tensor([float(not example.is_bad) for example in step.batch.examples])
        return step.batch.of_responses(good.to(step.student.device, non_blocking=True))

    def forward(self, step: Step) -> TermSums:
        batch, device = step.batch, step.student.device
        bad = batch.of_responses(torch.tensor([example.is_bad for example in batch.examples], dtype=torch.bool))
        rows = bad.nonzero().squeeze(1).to(device, non_blocking=True)
        head, bias = step.model.head
        weights = batch.of_responses(batch.weights)[rows]
        return TermSums(unlikelihood_loss(step.responses[rows], head, step.response_ids[rows], weights, bias))
