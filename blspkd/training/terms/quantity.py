"""The quantity loss as a term: alpha shall fire as often as there are tokens (arXiv 2405.19041, section 3.2)."""

from blspkd.losses.quantity import quantity_loss
from blspkd.training.terms.term import Step, Term, TermSums


class Quantity(Term):
    needs = frozenset({"alpha"})

    def forward(self, step: Step) -> TermSums:
        return TermSums(quantity_loss(step.speech.alpha, step.batch.n_tokens).sum())
