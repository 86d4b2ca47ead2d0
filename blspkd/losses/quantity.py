"""CIF's quantity loss (arXiv 1905.11235, eq. 5; here relative to the length): fire as often as there are tokens."""

from torch import Tensor


def quantity_loss(alpha: Tensor, n_tokens: Tensor) -> Tensor:
    """|sum(alpha) - n| / n per utterance.

    alpha: [B, T] unscaled, zero on padding; n_tokens: [B]. Returns [B], float32.
    """
    n_tokens = n_tokens.to(alpha.device, non_blocking=True).float()
    return (alpha.float().sum(1) - n_tokens).abs() / n_tokens
