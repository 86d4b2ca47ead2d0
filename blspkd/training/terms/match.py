"""Whether speech and text belong together, as a term (UNITER's image-text matching, arXiv 1909.11740, section 3.2).

The LLM reads the prompt's prefix, the speech and a text: that of the utterance, and, in a second sequence, that of
another one. A linear layer on the last state says which it is. The LLM is frozen but for PLoRA, and causal: only the
text's side sees both, where UNITER's encoder lets either see the other.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from blspkd.data.batching import lay_out
from blspkd.models.speech_llm import SpeechLlm
from blspkd.models.speech_tokens import SpeechTokens
from blspkd.training.terms.term import Step, Term, TermSums

WRONG, RIGHT = 0, 1
NOTHING = np.zeros(0, dtype=np.int32)


class Match(Term):
    """Cross-entropy of right and wrong, the mean over both texts of every utterance: half of the texts are wrong."""

    needs = frozenset({"llm"})
    reports = ("match_accuracy", "match_skipped")  # skipped: no other text was found, and neither pair is read

    @dataclass
    class Options(Term.Options):
        weight: float = 0.1

    @classmethod
    def runs_llm(cls, options: Options) -> bool:
        return True

    def __init__(self, options: Options, model: SpeechLlm):
        super().__init__(options, model)
        self.negatives = True
        self.head = nn.Linear(model.embedding_table.shape[1], 2)

    def forward(self, step: Step) -> TermSums:
        is_paired = step.negatives[1] > 0  # [B]
        rows = is_paired.nonzero().squeeze(1)  # [R]
        skipped = (~is_paired).sum().to(self.head.weight.device)
        if not len(rows):
            return TermSums(self.head.weight.sum() * 0, (torch.zeros_like(skipped), skipped))
        logits = self.head(self._last_states(step, rows)).float()  # [2 R, 2]
        labels = torch.tensor([RIGHT, WRONG], device=logits.device).repeat_interleave(len(rows))
        right = (logits.argmax(1) == labels).sum()
        return TermSums(cross_entropy(logits, labels, reduction="sum") / 2, (right / 2, skipped))

    def _last_states(self, step: Step, rows: Tensor) -> Tensor:
        """The LLM's states [2 R, D] behind the texts of utterances `rows`, their own ones first, then the others'."""
        speech, batch = step.speech, step.batch
        examples = [batch.examples[row] for row in rows.tolist()]
        pairs = [replace(example, suffix=text, response=NOTHING) for texts in ("input", "negative")
                 for example in examples for text in [getattr(example, texts)]]
        twice = rows.repeat(2)
        heard = SpeechTokens(speech.tokens.index_select(0, twice.to(speech.tokens.device, non_blocking=True)),
                             speech.n_tokens[twice])
        sequences = lay_out(pairs, heard.n_tokens.tolist())  # prefix, speech, text
        sequences.ids = sequences.ids.to(speech.tokens.device, non_blocking=True)
        states = step.model.student_states(sequences, heard)  # [2 R, L, D]
        last = (sequences.lengths - 1).to(states.device, non_blocking=True)
        return states[torch.arange(len(states), device=states.device), last]
