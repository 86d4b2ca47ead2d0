"""A second opinion on the number of tokens: CTC labels instead of the rounded sum of alpha.

The sum of alpha adds up the errors of all frames, and half a token too much is a whole token too many. A CTC head on
the same frames decides token by token and needs no alignment. It only has to tell neighbouring tokens apart, so it does
with few classes: token id modulo their number (two equal neighbours are kept apart by CTC's blank).
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLANK = 0
SURE_BLANK = 0.7  # chosen on the validation set of egs/smollm2


class TokenCounter(nn.Linear):
    """Frames [B, T, C] -> logits [B, T, K + 1] over blank and K classes of tokens."""

    def __init__(self, width: int, classes: int):
        super().__init__(width, classes + 1)
        self.classes = classes


def token_classes(ids: Tensor, classes: int) -> Tensor:
    """Class 1 ... K of every token id."""
    return ids % classes + 1


def ctc_loss(logits: Tensor, frame_lengths: Tensor, ids: Tensor, n_tokens: Tensor) -> Tensor:
    """CTC negative log-likelihood per token, of every utterance; 0 where the tokens outnumber the frames.

    logits: [B, T, K + 1]; frame_lengths, n_tokens: [B], on the CPU; ids: [sum of n_tokens] token ids, concatenated.
    Returns [B], float32.
    """
    log_probabilities = logits.float().log_softmax(-1).transpose(0, 1)
    labels = token_classes(ids, logits.shape[-1] - 1)
    losses = F.ctc_loss(log_probabilities, labels, frame_lengths, n_tokens, blank=BLANK, reduction="none",
                        zero_infinity=True)
    return losses / n_tokens.to(losses.device)


def frames_needed(texts: Sequence[np.ndarray]) -> Tensor:
    """The least frames of a CTC path for the labels of each text: one a label, and a blank between two equal ones.

    Returns [B] int64, on the CPU.
    """
    return torch.tensor([len(ids) + int((ids[1:] == ids[:-1]).sum()) for ids in texts])


def count_labels(logits: Tensor, frame_lengths: Tensor, sure_blank: float = 0.0) -> Tensor:
    """Labels on the best path, at least 1: [B, T, K + 1] and [B] -> [B], int64.

    sure_blank: a frame has the likeliest label unless the blank has this probability; 0: the likeliest of all. A
    counter that knows that there is a token, and not which, leaves it out else: every label loses against the blank.
    """
    logits = logits.float()  # of bfloat16, argmax takes five times as long on a CPU
    if sure_blank:
        is_blank = (logits[..., BLANK] - logits.logsumexp(-1)).exp() >= sure_blank
        path = (logits[..., 1:].argmax(-1) + 1).masked_fill(is_blank, BLANK)
    else:
        path = logits.argmax(-1)
    valid = torch.arange(path.shape[1], device=path.device) < frame_lengths.to(path.device)[:, None]
    path = path.masked_fill(~valid, BLANK)
    before = F.pad(path, (1, 0), value=BLANK)[:, :-1]
    return ((path != BLANK) & (path != before)).sum(1).clamp(min=1)
