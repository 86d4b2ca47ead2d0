"""How many tokens an utterance has, asked of the tokens themselves (not in arXiv 2405.19041).

With one token too many or too few, CIF's cuts run out of step with the words, and tokens are blends that lie between
text embeddings. With the right number they lie near them, where an adapter has learnt to put out text embeddings.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from blspkd.models.speech_tokens import SpeechTokens

COST = 0.1  # nats of mean certainty that another number has to win; chosen on the validation set of egs/smollm2


@torch.no_grad()
def recount(tokens_of: Callable[[Tensor], SpeechTokens], own: SpeechTokens, reach: int,
            nearest: Callable[[Tensor], tuple[Tensor, Tensor]],
            rescore: Callable[[Tensor, Tensor], Tensor] | None = None) -> SpeechTokens:
    """The speech tokens that are surest of their nearest embeddings, of own.n_tokens [B] +- reach for each utterance.

    tokens_of: numbers [B], on the CPU -> speech tokens; nearest: tokens [n, D] -> ids and shares [n] (see nearest.py).
    Certainty is the mean log share. rescore: ids [n] and numbers [B] -> [B], how good these texts are; then it is the
    best text's number instead (rescore.py). It costs 2 * reach passes of the adapter, and one more where a number
    changes.
    """
    if not reach:
        return own
    chosen, surest = own.n_tokens, torch.full(own.n_tokens.shape, -torch.inf)
    for change in sorted(range(-reach, reach + 1), key=abs):
        speech = tokens_of((own.n_tokens + change).clamp(min=1)) if change else own
        ids, shares = nearest(speech.rows())
        if rescore is None:
            parts = shares.log().cpu().split(speech.n_tokens.tolist())
            certainty = torch.stack([share.mean() for share in parts]) - COST * abs(change)
        else:
            certainty = rescore(ids, speech.n_tokens).float()
        better = certainty > surest
        chosen, surest = torch.where(better, speech.n_tokens, chosen), torch.where(better, certainty, surest)
    if torch.equal(chosen, own.n_tokens):
        return own
    return replace(tokens_of(chosen), n_predicted=chosen.to(own.n_predicted.device))
