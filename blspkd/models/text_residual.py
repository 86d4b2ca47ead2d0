"""What a CTC head hears, added to the speech tokens as text (not in arXiv 2405.19041).

In noise a speech token is a blur between words, and what the LLM knows of words cannot sharpen it. CTC's distribution
over text tokens v is a soft list of what may have been said there, of which a cascade keeps the first alone:

    token_i = a * CIF_i + g * sum_v p(v | i) E[v]        p(v | i) = sum_t w_it p_t(v) / sum_t w_it (1 - p_t(blank))

E are the LLM's embeddings, w_it the weight of frame t in token i (cif.py), p_t CTC's probabilities. The gates a and g
are learnt and start at 1 and 0, or where `acoustic_gate` and `text_gate` say: a new CFormer is noise beside a head that
hears already. The head learns from its own term of the loss only.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blspkd.models import cif
from blspkd.models.token_counter import BLANK, token_classes


class TextResidual(nn.Module):
    """a * CIF_i + g * sum_v p(v | i) E[v]; best: the likeliest v has all of the probability (a control)."""

    def __init__(self, best: bool, gate: float = 0.0, acoustic_gate: float = 1.0):
        super().__init__()
        self.best = best
        self.gate = nn.Parameter(torch.tensor(float(gate)))
        self.acoustic_gate = nn.Parameter(torch.tensor(float(acoustic_gate)))

    def forward(self, tokens: Tensor, ctc_logits: Tensor, amounts: Tensor, n_tokens: Tensor,
                embeddings: Tensor) -> Tensor:
        """tokens: [B, N, D] of CIF; ctc_logits: [B, T, K + 1], K >= V; amounts: [B, T] as CIF fires by; embeddings:
        [V, D] -> [B, N, D]."""
        with torch.autocast(ctc_logits.device.type, enabled=False):
            shares = self.shares(ctc_logits.detach(), amounts.detach(), n_tokens, len(embeddings))
            return self.acoustic_gate * tokens + self.gate * (shares @ embeddings.detach().float())

    def shares(self, ctc_logits: Tensor, amounts: Tensor, n_tokens: Tensor, vocabulary: int) -> Tensor:
        """p(v | i) [B, N, V]; 0 behind the last token, and where all is blank."""
        probabilities = ctc_logits.float().softmax(-1)
        heard = cif.fire(probabilities, amounts, n_tokens).tokens  # [B, N, K + 1]
        classes = token_classes(torch.arange(vocabulary, device=heard.device), ctc_logits.shape[-1] - 1)
        said = 1 - heard[..., BLANK, None]
        shares = heard[..., classes] / said.clamp(min=torch.finfo(torch.float32).eps)
        is_token = torch.arange(heard.shape[1], device=heard.device) < n_tokens.to(heard.device)[:, None]
        if self.best:
            shares = F.one_hot(shares.argmax(-1), vocabulary).float()
        return shares * is_token[..., None]
