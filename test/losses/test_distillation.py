"""The fused, chunked losses against the plain formulas in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from blspkd.losses.distillation import Divergence, distillation_loss

KINDS = ["forward_kl", "reverse_kl", "jsd"]


def plain(student, teacher, head, weights, divergence, labels=None, label_weights=None):
    """The formulas of the module's docstring, all logits at once."""
    log_p = F.log_softmax(teacher @ head.T / divergence.temperature, 1)
    log_q = F.log_softmax(student @ head.T / divergence.temperature, 1)
    p, q, beta = log_p.exp(), log_q.exp(), divergence.beta
    if divergence.kind == "forward_kl":
        value = (p * (log_p - log_q)).sum(1)
    elif divergence.kind == "reverse_kl":
        value = (q * (log_q - log_p)).sum(1)
    else:
        log_m = (beta * p + (1 - beta) * q).log()
        value = beta * (p * (log_p - log_m)).sum(1) + (1 - beta) * (q * (log_q - log_m)).sum(1)
    if divergence.temperature_squared:
        value = value * divergence.temperature**2
    loss = (value * weights).sum()
    if labels is not None:
        loss = loss + (F.cross_entropy(student @ head.T, labels, ignore_index=-100, reduction="none")
                       * label_weights).sum()
    return loss, value


def problem(n=23, width=9, vocabulary=57, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    labels = torch.randint(0, vocabulary, (n,))
    labels[::3] = -100
    return (torch.randn(n, width, dtype=dtype), torch.randn(n, width, dtype=dtype),
            torch.randn(vocabulary, width, dtype=dtype), torch.rand(n, dtype=torch.float64), labels)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("chunk_bytes", [1, 10_000, 1 << 20])
def test_value_and_gradient_equal_the_plain_formula(kind, squared, chunk_bytes):
    student, teacher, head, weights, labels = problem()
    divergence = Divergence(kind, temperature=1.7, beta=0.3, temperature_squared=squared)
    results = []
    for function in (plain, lambda *a, **k: distillation_loss(*a, **k, chunk_bytes=chunk_bytes).loss):
        leaf = student.clone().requires_grad_()
        loss = function(leaf, teacher, head, weights, divergence, labels=labels, label_weights=weights.flip(0))
        loss = loss[0] if isinstance(loss, tuple) else loss
        (loss * 3).backward()
        results.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind):
    student, teacher, head, weights, labels = problem(n=5, width=4, vocabulary=11)
    assert torch.autograd.gradcheck(
        lambda h: distillation_loss(h, teacher, head, weights, Divergence(kind), labels=labels,
                                    label_weights=weights).loss, (student.requires_grad_(),))


def test_second_derivatives_are_refused_not_wrong():
    student, teacher, head, weights, _ = problem()
    loss = distillation_loss(student.requires_grad_(), teacher, head, weights, Divergence()).loss
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(loss, student, create_graph=True)


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_jsd_endpoints_are_forward_and_reverse_kl(beta):
    student, teacher, head, weights, _ = problem()
    kind = "forward_kl" if beta == 0 else "reverse_kl"
    ends = [distillation_loss(student, teacher, head, weights, d).loss
            for d in (Divergence("jsd", beta=beta), Divergence(kind))]
    torch.testing.assert_close(*ends)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equal_teacher_and_student_give_exactly_zero(kind, dtype):
    student, _, head, weights, _ = problem(dtype=dtype)
    leaf = student.clone().requires_grad_()
    result = distillation_loss(leaf, student, head, weights, Divergence(kind))
    assert result.loss.abs() < 1e-7 and result.agreement.all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(dtype):
    student, teacher, head, weights, _ = problem(n=40, width=64, vocabulary=9000, dtype=torch.float64)
    student, teacher, head = (x.mul(0.5).to(dtype) for x in (student, teacher, head))
    expected = plain(student.double(), teacher.double(), head.double(), weights, Divergence())[0]
    found = distillation_loss(student, teacher, head, weights, Divergence()).loss
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=0)


def test_autocast_changes_nothing():
    student, teacher, head, weights, _ = problem(dtype=torch.float32)
    expected = distillation_loss(student, teacher, head, weights, Divergence()).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = distillation_loss(student, teacher, head, weights, Divergence()).loss
    assert found == expected


def test_no_selected_position_gives_a_connected_zero():
    empty = torch.zeros(0, 9, requires_grad=True)
    loss = distillation_loss(empty, torch.zeros(0, 9), torch.randn(57, 9), torch.zeros(0), Divergence()).loss
    loss.backward()
    assert loss == 0 and empty.grad.shape == (0, 9)


def test_splitting_a_batch_with_a_global_denominator_changes_nothing():
    student, teacher, head, _, _ = problem()
    whole = distillation_loss(student, teacher, head, torch.full((23,), 1 / 23), Divergence()).loss
    parts = [distillation_loss(student[a:b], teacher[a:b], head, torch.full((b - a,), 1 / 23), Divergence()).loss
             for a, b in ((0, 4), (4, 5), (5, 23))]
    torch.testing.assert_close(sum(parts), whole)


def test_gradients_of_micro_batches_are_those_of_the_whole_batch():
    student, teacher, head, _, labels = problem(dtype=torch.float32)
    weights, gradients = torch.full((23,), 1 / 23), []
    for bounds in ((0, 23),), ((0, 4), (4, 5), (5, 23)):
        leaf = student.clone().requires_grad_()
        for a, b in bounds:
            distillation_loss(leaf[a:b], teacher[a:b], head, weights[a:b], Divergence(), labels=labels[a:b],
                              label_weights=weights[a:b]).loss.backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-6, atol=1e-8)


def largest_result(n: int, chunk_bytes: int) -> int:
    """Elements of the largest tensor that any operation gives, forward and backward."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            for tensor in tree_leaves(result):
                largest = max(largest, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
            return result

    student, teacher, head, weights, labels = problem(n=n, vocabulary=2000, dtype=torch.float32)
    student.requires_grad_()
    with Watch():
        distillation_loss(student, teacher, head, weights, Divergence(), labels=labels, label_weights=weights,
                          chunk_bytes=chunk_bytes).loss.backward()
    return largest


def test_logits_stay_within_the_budget_whatever_the_number_of_positions():
    budget = 2 * 2000 * 4 * 10  # ten positions of student and teacher
    assert largest_result(30, budget) == largest_result(300, budget) == budget // 4


def test_without_a_teacher_there_is_only_cross_entropy():
    student, _, head, weights, labels = problem()
    result = distillation_loss(student, None, head, weights, Divergence(), labels=labels, label_weights=weights)
    entropy = F.cross_entropy(student @ head.T, labels, ignore_index=-100, reduction="none")
    torch.testing.assert_close(result.loss, (entropy * weights).sum())
    torch.testing.assert_close(result.cross_entropy, entropy)


def test_details_are_per_position_and_carry_no_gradient():
    student, teacher, head, weights, _ = problem()
    result = distillation_loss(student.requires_grad_(), teacher, head, weights, Divergence())
    torch.testing.assert_close(result.divergence, plain(student, teacher, head, weights, Divergence())[1].detach())
    assert result.loss.requires_grad and not result.divergence.requires_grad


def test_a_trainable_head_is_refused():
    student, teacher, head, weights, _ = problem()
    with pytest.raises(ValueError, match="frozen"):
        distillation_loss(student, teacher, head.requires_grad_(), weights, Divergence())
