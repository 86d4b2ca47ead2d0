"""Unlikelihood of tokens that should not be said: -log(1 - p) (arXiv 1908.04319; in arXiv 2302.08582 of bad texts).

    loss = -sum_i w_i log max(1 - p_i, 1e-20),  p_i = softmax(h_i W^T)[y_i]
    d/dz_k = w p_y (delta_ky - r_k),  r the softmax over all tokens but y;  0 where 1 - p_i < 1e-20

In this form the gradient is finite for p -> 1 as well. Logits exist for one chunk of positions at a time, as in
distillation.py, and everything inside is float32 (float64 for float64 inputs).
"""

import math

import torch
from torch import Tensor

from blspkd.losses.distillation import LEAST_CHUNK_BYTES
from blspkd.losses.head import multiply_head, times_head

_LOG_FLOOR = math.log(1e-20)  # the released code's


def unlikelihood_loss(states: Tensor, head: Tensor, labels: Tensor, weights: Tensor, head_bias: Tensor | None = None,
                      chunk_bytes: int = 0) -> Tensor:
    """The loss above, a scalar.

    states: [n, D] hidden states, which gradients reach; head: [V, D], frozen; head_bias: [V]
    labels: [n] int64 tokens that should not be said there; weights: [n]
    chunk_bytes: memory for the logits of one chunk, several times over; 0: a quarter of the head, at least 96 MiB
    """
    with torch.autocast(states.device.type, enabled=False):
        return _Unlikelihood.apply(states, head, labels, weights, head_bias, chunk_bytes)


class _Unlikelihood(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, head, labels, weights, head_bias, chunk_bytes):
        wide = torch.float64 if states.dtype == torch.float64 else torch.float32
        weights = weights.to(wide)
        gradient = torch.zeros_like(states) if ctx.needs_input_grad[0] else None
        loss = weights.new_zeros(())
        rows = max(1, (chunk_bytes or max(LEAST_CHUNK_BYTES, head.numel())) // (len(head) * wide.itemsize))
        for start in range(0, len(states), rows):
            chunk = slice(start, start + rows)
            said, factors = labels[chunk, None], weights[chunk]
            logits = torch.empty(len(said), len(head), dtype=wide, device=states.device)  # [c, V]
            multiply_head(states[chunk], head, head_bias, 1.0, out=logits)
            total, own = logits.logsumexp(1), logits.gather(1, said).squeeze(1)
            others = logits.scatter_(1, said, -torch.inf)
            log_rest = others.logsumexp(1) - total  # log(1 - p)
            loss = loss - (factors * log_rest.clamp(min=_LOG_FLOOR)).sum()
            if gradient is not None:
                slope = others.softmax(1).neg_().scatter_(1, said, 1.0)  # delta - r
                slope.mul_((factors * (own - total).exp())[:, None])
                slope.masked_fill_((log_rest < _LOG_FLOOR)[:, None], 0.0)
                gradient[chunk] = times_head(slope, head)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx, grad_loss):
        if torch.is_grad_enabled():  # create_graph=True: `gradient` would pass for a constant
            raise RuntimeError("the unlikelihood loss has no second derivatives: differentiate it without create_graph")
        (gradient,) = ctx.saved_tensors
        return gradient * grad_loss.to(gradient.dtype), *[None] * 5
