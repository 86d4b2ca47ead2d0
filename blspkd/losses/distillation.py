"""Divergence of the student's next-token distributions from the teacher's, from hidden states (arXiv 2405.19041).

Logits of all positions would be the largest tensors of the whole training step (positions x vocabulary, several times
over). Here they exist for one chunk of positions at a time: each chunk's logits give its loss and at once the gradient
of the student's hidden states, which is all that is kept. The output head is shared and frozen.

    z = h W^T,  p = softmax(z_teacher / T),  q = softmax(z_student / T)
    forward KL  KL(p || q)                                           d/dz_student = (q - p) / T
    reverse KL  KL(q || p)                                                          q (log q - log p - KL) / T
    JSD(beta)   beta KL(p || m) + (1 - beta) KL(q || m),  m = beta p + (1 - beta) q
                                                                  (1 - beta) q (r - E_q r) / T,  r = log q - log m

Everything inside is float32 (float64 for float64 inputs), whatever the inputs' type.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_HEAD_BLOCK = 8192  # rows of a half-precision output head that are widened at a time


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
                      labels: Tensor | None = None, label_weights: Tensor | None = None, head_bias: Tensor | None = None,
                      chunk_bytes: int = 64 << 20) -> Distilled:
    """sum_i weights[i] * D(teacher_i, student_i) + sum_i label_weights[i] * CE(student_i, labels[i]).

    student, teacher: [n, D] hidden states at the selected positions; gradients reach `student` only. Without a teacher
                      there are only the hard labels
    head:             [V, D] output head, frozen; head_bias: [V]
    weights:          [n]; a token mean over a whole accumulated, distributed batch is 1 / (its number of positions)
    labels:           [n] int64 token ids, negative where there is none; label_weights: [n] (temperature 1)
    chunk_bytes:      memory for one chunk of logits and its temporaries
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
        needs_grad = ctx.needs_input_grad[0]
        # student, teacher and about two temporaries of one chunk's logits
        rows = max(1, chunk_bytes // (4 * vocabulary * wide.itemsize))
        values, entropies = weights.new_zeros(n, dtype=wide), weights.new_zeros(n, dtype=wide)
        agreement = torch.zeros(n, dtype=torch.bool, device=student.device)
        gradient = torch.zeros_like(student) if needs_grad else None
        for start in range(0, n, rows):
            chunk = slice(start, start + rows)
            log_q = _logits(student[chunk], head, head_bias, wide)
            slope = None
            if labels is not None:
                slope, entropies[chunk] = _label_slope(log_q, labels[chunk], label_weights[chunk].to(wide), needs_grad)
            if teacher is not None:
                log_p = _logits(teacher[chunk], head, head_bias, wide)
                agreement[chunk] = log_q.argmax(1) == log_p.argmax(1)
                log_p = _log_softmax_(log_p.div_(divergence.temperature))
                log_q = _log_softmax_(log_q.div_(divergence.temperature))
                compare = _VALUE_AND_SLOPE[divergence.kind]
                values[chunk], kd_slope = compare(log_p, log_q, divergence.beta, needs_grad)
                if needs_grad:
                    factor = divergence.temperature if divergence.temperature_squared else 1 / divergence.temperature
                    kd_slope *= (weights[chunk].to(wide) * factor)[:, None]
                    slope = kd_slope if slope is None else slope.add_(kd_slope)
            if slope is not None:
                gradient[chunk] = _times_head(slope, head).to(student.dtype)
        if divergence.temperature_squared:
            values *= divergence.temperature**2
        loss = (values * weights.to(wide)).sum()
        if labels is not None:
            loss = loss + (entropies * label_weights.to(wide)).sum()
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(values, entropies, agreement)
        return loss, values, entropies, agreement

    @staticmethod
    def backward(ctx, grad_loss, *_):
        (gradient,) = ctx.saved_tensors
        return gradient * grad_loss.to(gradient.dtype), *[None] * 8


def _forward_kl(log_p: Tensor, log_q: Tensor, beta: float, slope: bool) -> tuple[Tensor, Tensor | None]:
    """KL(p || q) [n] and its slope with respect to the student's scaled logits [n, V]; may overwrite both inputs."""
    p = log_p.exp()
    value = (log_p.sub_(log_q)).mul_(p).sum(1)
    return value, log_q.exp_().sub_(p) if slope else None


def _reverse_kl(log_p: Tensor, log_q: Tensor, beta: float, slope: bool) -> tuple[Tensor, Tensor | None]:
    """KL(q || p)"""
    ratio = log_p.neg_().add_(log_q)
    q = log_q.exp_()
    value = (ratio * q).sum(1)
    return value, ratio.sub_(value[:, None]).mul_(q) if slope else None


def _jsd(log_p: Tensor, log_q: Tensor, beta: float, slope: bool) -> tuple[Tensor, Tensor | None]:
    """beta KL(p || m) + (1 - beta) KL(q || m); beta 0 and 1 are its limits, forward and reverse KL (each over beta)."""
    if beta in (0.0, 1.0):
        return (_forward_kl if beta == 0.0 else _reverse_kl)(log_p, log_q, beta, slope)
    p, q = log_p.exp(), log_q.exp()
    log_m = (beta * p + (1 - beta) * q).log_()
    ratio = log_q.sub_(log_m)
    mean = (ratio * q).sum(1)
    value = beta * (log_p.sub_(log_m).mul_(p)).sum(1) + (1 - beta) * mean
    return value, ratio.sub_(mean[:, None]).mul_(q).mul_(1 - beta) if slope else None


_VALUE_AND_SLOPE = {"forward_kl": _forward_kl, "reverse_kl": _reverse_kl, "jsd": _jsd}


def _label_slope(logits: Tensor, labels: Tensor, weights: Tensor, slope: bool) -> tuple[Tensor | None, Tensor]:
    """Cross-entropy of hard labels [n] and its weighted slope with respect to the logits [n, V]."""
    labelled = labels >= 0
    safe = labels.clamp(min=0)[:, None]
    log_q = F.log_softmax(logits, dim=1)
    entropy = torch.where(labelled, -log_q.gather(1, safe).squeeze(1), 0)
    if not slope:
        return None, entropy
    q = log_q.exp_()
    slope = q.scatter_add_(1, safe, q.new_full(safe.shape, -1.0))
    return slope.mul_(torch.where(labelled, weights, 0)[:, None]), entropy


def _log_softmax_(logits: Tensor) -> Tensor:
    """In place."""
    return logits.sub_(logits.logsumexp(1, keepdim=True))


def _logits(hidden: Tensor, head: Tensor, bias: Tensor | None, wide: torch.dtype) -> Tensor:
    """[n, D] x [V, D] -> [n, V], multiplied and summed in `wide`; a narrower head is widened block by block."""
    hidden = hidden.to(wide)
    if head.dtype == wide:
        logits = hidden @ head.T
    else:
        logits = hidden.new_empty(len(hidden), len(head))
        for start in range(0, len(head), _HEAD_BLOCK):
            block = head[start:start + _HEAD_BLOCK]
            torch.mm(hidden, block.to(wide).T, out=logits[:, start:start + len(block)])
    return logits if bias is None else logits.add_(bias.to(wide))


def _times_head(slope: Tensor, head: Tensor) -> Tensor:
    """[n, V] x [V, D] -> [n, D], likewise."""
    if head.dtype == slope.dtype:
        return slope @ head
    result = slope.new_zeros(len(slope), head.shape[1])
    for start in range(0, len(head), _HEAD_BLOCK):
        block = head[start:start + _HEAD_BLOCK]
        result.addmm_(slope[:, start:start + len(block)], block.to(slope.dtype))
    return result
