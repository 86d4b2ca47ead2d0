"""The token counter's CTC loss as a term (models/token_counter.py; not in arXiv 2405.19041)."""

from blspkd.models.token_counter import ctc_loss
from blspkd.training.terms.term import Step, Term, TermSums


class TokenCount(Term):
    needs = frozenset({"ctc"})

    def forward(self, step: Step) -> TermSums:
        speech = step.speech
        return TermSums(ctc_loss(speech.ctc_logits, speech.frame_lengths, step.input_ids, step.batch.n_tokens).sum())
