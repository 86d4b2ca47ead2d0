"""The embedding loss as a term: every speech token near its text token's embedding (not in arXiv 2405.19041)."""

from blspkd.losses.embedding import embedding_loss
from blspkd.training.terms.term import Step, Term, TermSums


class Embedding(Term):
    unit = "input"
    needs = frozenset({"aligned"})

    def forward(self, step: Step) -> TermSums:
        mean_square = step.model.embedding_rms**2
        return TermSums(embedding_loss(step.speech.rows(), step.text_embeddings, mean_square).sum())
