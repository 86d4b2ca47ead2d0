"""Numbers of tokens re-scored by the LLM: what a number makes of an utterance is a hypothesis of what was said.

Speech tokens of every number are read as their nearest text tokens w_1 ... w_n, as a recogniser's N-best list is read:

    score(n) = log p_LLM(w_1 ... w_n, end | prompt) + weight * log P(n | x)

p_LLM is the frozen LLM's, PLoRA off, behind the prompt's prefix; `end` is what follows a whole transcript, the suffix's
first token; P(n | x) is the token counter's (count_posterior.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blspkd.data.batching import TokenBatch
from blspkd.errors import ConfigError
from blspkd.models.count_posterior import log_count_posterior
from blspkd.models.speech_tokens import SpeechTokens

if TYPE_CHECKING:
    from blspkd.models.speech_llm import SpeechLlm

CHUNK = 1 << 24  # numbers in a piece of the logits [n, V]


class Rescorer:
    """Scores of the tokens that numbers of `own`'s utterances, within reach, make."""

    def __init__(self, model: SpeechLlm, own: SpeechTokens, reach: int):
        """model: knows its prompt's turn, and the weight. Raises ConfigError without a token counter."""
        self.model, weight = model, model.config.recount_weight
        if weight and own.ctc_logits is None:
            raise ConfigError("recount_by: llm: the adapter has no token counter, whose posterior of the number has "
                              "recount_weight; set that to 0, or train with ctc_classes")
        self.log_p = None
        if weight:
            highest = int(own.n_tokens.max()) + reach
            self.log_p = weight * log_count_posterior(own.ctc_logits, own.frame_lengths, highest).cpu()

    def __call__(self, ids: Tensor, n_tokens: Tensor) -> Tensor:
        """Nearest text tokens [sum of n_tokens], one utterance behind the other, and their numbers [B] -> [B]."""
        score = log_p_text(self.model, [row.tolist() for row in ids.split(n_tokens.tolist())])
        if self.log_p is None:
            return score
        return score + self.log_p.gather(1, n_tokens[:, None])[:, 0]


@torch.no_grad()
def log_p_text(model: SpeechLlm, texts: list[list[int]]) -> Tensor:
    """log p of texts (token ids) and of their end in the prompt's turn, under the frozen LLM: [B], on the CPU."""
    prefix, suffix = model.turn
    rows = [[*prefix, *text, *suffix[:1]] for text in texts]
    size = max(map(len, rows))
    ids = torch.tensor([row + [0] * (size - len(row)) for row in rows])
    nothing = torch.zeros(ids.shape, dtype=torch.bool)
    batch = TokenBatch(ids.to(model.device), nothing, nothing, torch.tensor([len(row) for row in rows]))
    states = model.teacher_states(batch)  # [B, L, D]
    place = torch.arange(size)
    asked = (place >= max(1, len(prefix))) & (place < batch.lengths[:, None])  # nothing predicts a first token
    row, column = asked.nonzero(as_tuple=True)
    weight, bias = model.head
    found = []
    step = max(1, CHUNK // len(weight))
    for first in range(0, len(row), step):
        r, c = row[first:first + step].to(states.device), column[first:first + step].to(states.device)
        logits = torch.nn.functional.linear(states[r, c - 1], weight, bias).float()  # [n, V]
        found.append(logits.log_softmax(-1).gather(1, batch.ids[r, c][:, None])[:, 0].double().cpu())
    return torch.zeros(len(texts), dtype=torch.float64).index_add_(0, row, torch.cat(found))
