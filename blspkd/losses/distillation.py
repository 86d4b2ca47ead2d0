"""Divergence of the student's next-token distributions from the teacher's, from hidden states (arXiv 2405.19041).

Logits of all positions would be the largest tensors of the whole training step (positions x vocabulary, several times
over). Here they exist for one chunk of positions at a time: each chunk's logits give its loss and at once the gradient
of the student's hidden states, which is all that is kept. The output head is shared and frozen.

    z = h W^T,  p = softmax(z_teacher / T),  q = softmax(z_student / T)
    forward KL  KL(p || q)                                           d/dz_student = (q - p) / T
    reverse KL  KL(q || p)                                                          q (log q - log p - KL) / T
    JSD(beta)   beta KL(p || m) + (1 - beta) KL(q || m),  m = beta p + (1 - beta) q
                                                                  (1 - beta) q (r - E_q r) / T,  r = log q - log m

Everything inside is float32 (float64 for float64 inputs), whatever the inputs' type; on a GPU products with the head
read half-precision inputs as they are (losses/head.py).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from blspkd.losses.head import multiply_head, times_head

LEAST_CHUNK_BYTES = 96 << 20
# Temporaries of a size that stays in a CPU's caches, several times faster there; a GPU prefers few, large steps.
_BLOCK_BYTES = {"cpu": 4 << 20, "cuda": 32 << 20}


@dataclass
class Divergence:
    """How two distributions are compared."""

    kind: str = "forward_kl"  # or reverse_kl, jsd
    temperature: float = 2.0
    beta: float = 0.5  # jsd only
    temperature_squared: bool = False


@dataclass
class Distilled:
    """The loss and what it is made of; all but `loss` carry no gradient."""

    loss: Tensor  # scalar
    divergence: Tensor  # [n] per position, unweighted
    cross_entropy: Tensor  # [n] of the hard labels, 0 without
    agreement: Tensor  # [n] bool: teacher and student put the same token first


def distillation_loss(student: Tensor, teacher: Tensor | None, head: Tensor, weights: Tensor, divergence: Divergence, *,
                      labels: Tensor | None = None, label_weights: Tensor | None = None,
                      head_bias: Tensor | None = None, chunk_bytes: int = 0) -> Distilled:
    """sum_i weights[i] * D(teacher_i, student_i) + sum_i label_weights[i] * CE(student_i, labels[i]).

    student, teacher: [n, D] hidden states at the selected positions; gradients reach `student` only. Without a teacher
                      there are only the hard labels
    head:             [V, D] output head, frozen; head_bias: [V]
    weights:          [n]; a token mean over a whole accumulated, distributed batch is 1 / (its number of positions)
    labels:           [n] int64 token ids, negative where there is none; label_weights: [n] (temperature 1)
    chunk_bytes:      memory for the logits of one chunk, student's and teacher's; temporaries add a few blocks of
                      _BLOCK_BYTES. 0: half of what the head takes in float32, i.e. D / 4 positions at a time (reading
                      the head costs little then, also on a GPU, which wants some 512), and at least 96 MiB
    No position at all gives a 0 that is connected to the graph.
    """
    if head.requires_grad and torch.is_grad_enabled():
        raise ValueError("the output head is shared by teacher and student and must be frozen")
    if teacher is None:
        weights = torch.zeros_like(weights)
    elif student.shape != teacher.shape or student.dtype != teacher.dtype:
        raise ValueError(f"student {tuple(student.shape)} {student.dtype} and teacher {tuple(teacher.shape)} "
                         f"{teacher.dtype} differ")
    # Autocast would turn the logits into half precision, where KL is off by several per cent.
    with torch.autocast(student.device.type, enabled=False):
        loss, *details = _Distillation.apply(student, None if teacher is None else teacher.detach(), head, weights,
                                             divergence, labels, label_weights, head_bias, chunk_bytes)
    return Distilled(loss, *details)


class _Distillation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, student, teacher, head, weights, divergence, labels, label_weights, head_bias, chunk_bytes):
        wide = torch.float64 if student.dtype == torch.float64 else torch.float32
        n, vocabulary = len(student), len(head)
        details = (weights.new_zeros(n, dtype=wide), weights.new_zeros(n, dtype=wide),
                   torch.zeros(n, dtype=torch.bool, device=student.device))
        values, entropies, _ = details
        gradient = torch.zeros_like(student) if ctx.needs_input_grad[0] else None
        weights = weights.to(wide)
        temperature = 1.0 if teacher is None else divergence.temperature
        chunk_bytes = chunk_bytes or max(LEAST_CHUNK_BYTES, 2 * head.numel())
        rows = max(1, min(n, chunk_bytes // (2 * vocabulary * wide.itemsize)))
        block_rows = max(1, _BLOCK_BYTES.get(student.device.type, _BLOCK_BYTES["cuda"]) // (vocabulary * wide.itemsize))
        hidden = [student] if teacher is None else [student, teacher]
        logits = torch.empty(len(hidden) * rows, vocabulary, dtype=wide, device=student.device)
        for start in range(0, n, rows):
            chunk = slice(start, min(start + rows, n))
            inputs = torch.cat([states[chunk] for states in hidden])
            multiply_head(inputs, head, head_bias, temperature, out=logits[:len(inputs)])
            scaled = logits[:len(inputs)].view(len(hidden), -1, vocabulary)  # student's, teacher's
            for first in range(start, chunk.stop, block_rows):
                block = slice(first, min(first + block_rows, chunk.stop))
                found = _compare_(*scaled[:, block.start - start:block.stop - start].unbind(), divergence=divergence,
                                  weights=weights[block], labels=None if labels is None else labels[block],
                                  label_weights=None if labels is None else label_weights[block].to(wide),
                                  slope=gradient is not None)
                for detail, part in zip(details, found, strict=True):
                    if part is not None:
                        detail[block] = part
            if gradient is not None and (teacher is not None or labels is not None):
                gradient[chunk] = times_head(scaled[0], head)
        if divergence.temperature_squared:
            values *= divergence.temperature**2
        loss = (values * weights).sum()
        if labels is not None:
            loss = loss + (entropies * label_weights.to(wide)).sum()
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(*details)
        return loss, *details

    @staticmethod
    def backward(ctx, grad_loss, *_):
        if torch.is_grad_enabled():  # create_graph=True: `gradient` would pass for a constant
            raise RuntimeError("the distillation loss has no second derivatives: differentiate it without create_graph")
        (gradient,) = ctx.saved_tensors
        return gradient * grad_loss.to(gradient.dtype), *[None] * 8


def _compare_(z_q: Tensor, z_p: Tensor | None = None, *, divergence: Divergence, weights: Tensor, labels: Tensor | None,
              label_weights: Tensor | None, slope: bool) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Divergence, cross-entropy and agreement [n] of logits [n, V] that are divided by the temperature.

    With `slope` the student's logits z_q give way to the slope of the whole loss with respect to the undivided ones.
    """
    value = entropy = agreement = total = None
    if labels is not None:
        undivided = z_q if z_p is None else z_q * divergence.temperature
        entropy, total = _cross_entropy(undivided, labels, slope)
        if slope:
            total.mul_(label_weights[:, None])
    if z_p is not None:
        agreement = z_q.argmax(1) == z_p.argmax(1)
        value, kd_slope = _VALUE_AND_SLOPE[divergence.kind](z_p, z_q, divergence.beta, slope)
        if slope:
            factor = divergence.temperature if divergence.temperature_squared else 1 / divergence.temperature
            kd_slope.mul_(weights[:, None] * factor)
            total = kd_slope if total is None else total.add_(kd_slope)
    if total is not None:
        z_q.copy_(total)
    return value, entropy, agreement


def _forward_kl(z_p: Tensor, z_q: Tensor, beta: float, slope: bool) -> tuple[Tensor, Tensor | None]:
    """KL(p || q) [n] and its slope with respect to the student's scaled logits z_q, both logits [n, V]."""
    p = z_p.softmax(1)
    value = z_p.log_softmax(1).sub_(z_q.log_softmax(1)).mul_(p).sum(1)
    return value, z_q.softmax(1).sub_(p) if slope else None


def _reverse_kl(z_p: Tensor, z_q: Tensor, beta: float, slope: bool) -> tuple[Tensor, Tensor | None]:
    """KL(q || p)"""
    q = z_q.softmax(1)
    ratio = z_q.log_softmax(1).sub_(z_p.log_softmax(1))
    value = (ratio * q).sum(1)
    return value, ratio.sub_(value[:, None]).mul_(q) if slope else None


def _jsd(z_p: Tensor, z_q: Tensor, beta: float, slope: bool) -> tuple[Tensor, Tensor | None]:
    """beta KL(p || m) + (1 - beta) KL(q || m); beta 0 and 1 are its limits, forward and reverse KL (each over beta)."""
    if beta in (0.0, 1.0):
        return (_forward_kl if beta == 0.0 else _reverse_kl)(z_p, z_q, beta, slope)
    q = z_q.softmax(1)
    # log p - log q; where it is clamped q is 0. With it log m - log q = log(1 + beta (p / q - 1)): 0 where p = q
    gap = z_p.log_softmax(1).sub_(z_q.log_softmax(1)).clamp_(max=80)
    ratio = gap.expm1().mul_(beta).log1p_().neg_()  # r = log q - log m
    mean = (ratio * q).sum(1)
    value = beta * gap.add_(ratio).mul_(z_p.softmax(1)).sum(1) + (1 - beta) * mean
    return value, ratio.sub_(mean[:, None]).mul_(q).mul_(1 - beta) if slope else None


_VALUE_AND_SLOPE = {"forward_kl": _forward_kl, "reverse_kl": _reverse_kl, "jsd": _jsd}


def _cross_entropy(logits: Tensor, labels: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
    """Cross-entropy of hard labels [n] and its slope with respect to the logits [n, V]; both 0 without a label."""
    labelled, safe = labels >= 0, labels.clamp(min=0)[:, None]
    entropy = torch.where(labelled, -logits.log_softmax(1).gather(1, safe).squeeze(1), 0)
    if not slope:
        return entropy, None
    q = logits.softmax(1)
    return entropy, q.scatter_add_(1, safe, q.new_full(safe.shape, -1.0)).mul_(labelled[:, None])
