"""How many tokens an utterance has, asked of the tokens themselves (not in arXiv 2405.19041).

With one token too many or too few, CIF's cuts run out of step with the words, and tokens are blends that lie between
text embeddings. With the right number they lie near them, where an adapter has learnt to put out text embeddings.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from blspkd.models.nearest import nearest
from blspkd.models.speech_tokens import SpeechTokens

COST = 0.1  # nats of mean certainty that another number has to win; chosen on the validation set of egs/smollm2


@torch.no_grad()
def recount(tokens_of: Callable[[Tensor], SpeechTokens], n_tokens: Tensor, reach: int, embeddings: Tensor,
            mean_square: float) -> Tensor:
    """The number of tokens [B] whose tokens are surest of their nearest embeddings, of n_tokens [B] +- reach.

    tokens_of: numbers [B] -> the speech tokens. Certainty: mean log share of the nearest embedding (models/nearest.py).
    """
    best, surest = n_tokens, torch.full(n_tokens.shape, -torch.inf)
    for change in sorted(range(-reach, reach + 1), key=abs):
        number = (n_tokens + change).clamp(min=1)
        shares = nearest(tokens_of(number).rows(), embeddings, mean_square)[1].log().cpu()
        certainty = torch.stack([share.mean() for share in shares.split(number.tolist())]) - COST * abs(change)
        better = certainty > surest
        best, surest = torch.where(better, number, best), torch.where(better, certainty, surest)
    return best
