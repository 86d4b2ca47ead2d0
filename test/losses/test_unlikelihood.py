"""The chunked unlikelihood against the plain formula in float64."""

import math

import pytest
import torch

from blspkd.losses.unlikelihood import unlikelihood_loss


def plain(states, head, labels, weights, bias=None):
    """-sum_i w_i log max(1 - p_i, 1e-20), all logits at once."""
    logits = states @ head.T if bias is None else states @ head.T + bias
    p = logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
    return -(weights * (1 - p).clamp(min=1e-20).log()).sum()


def problem(n=17, width=6, vocabulary=23, dtype=torch.float64):
    torch.manual_seed(0)
    return (torch.randn(n, width, dtype=dtype), torch.randn(vocabulary, width, dtype=dtype),
            torch.randint(0, vocabulary, (n,)), torch.rand(n, dtype=torch.float64))


@pytest.mark.parametrize("chunk_bytes", [1, 500, 0])
@pytest.mark.parametrize("biased", [False, True])
def test_value_and_gradient_equal_the_plain_formula(chunk_bytes, biased):
    states, head, labels, weights = problem()
    bias = torch.randn(len(head), dtype=torch.float64) if biased else None
    results = []
    for function in (plain, lambda *a: unlikelihood_loss(*a, chunk_bytes=chunk_bytes)):
        leaf = states.clone().requires_grad_()
        loss = function(leaf, head, labels, weights, bias)
        (loss * 3).backward()
        results.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-12)


def test_gradcheck():
    states, head, labels, weights = problem(n=5, width=4, vocabulary=11)
    assert torch.autograd.gradcheck(lambda h: unlikelihood_loss(h, head, labels, weights, chunk_bytes=200),
                                    (states.requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("gap", [5.0, 20.0, 40.0, 60.0, 200.0])
def test_a_probability_near_one_has_a_finite_loss_and_gradient(dtype, gap):
    """The naive gradient p / (1 - p) is 0 / 0 in float32 from a gap of 17 on."""
    states = torch.tensor([[gap]], dtype=dtype, requires_grad=True)
    head = torch.tensor([[1.0], [0.0], [0.0]], dtype=dtype)
    loss = unlikelihood_loss(states, head, torch.tensor([0]), torch.ones(1))
    loss.backward()
    # 1 - p = 2 / (e^gap + 2); d/dh of its negative log is p for the gap itself, 0 below the floor
    rest = math.log(2) - math.log(math.exp(gap) + 2)
    expected, slope = (-rest, 1 / (1 + 2 * math.exp(-gap))) if rest > math.log(1e-20) else (-math.log(1e-20), 0.0)
    torch.testing.assert_close(loss.double().item(), expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=0)
    torch.testing.assert_close(states.grad.double().item(), slope, rtol=1e-2, atol=0)


def test_half_precision_is_computed_in_float32_and_autocast_changes_nothing():
    states, head, labels, weights = problem(dtype=torch.float32)
    expected = unlikelihood_loss(states, head, labels, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert unlikelihood_loss(states, head, labels, weights) == expected
    halves = states.bfloat16(), head.bfloat16()
    found = unlikelihood_loss(*halves, labels, weights)
    torch.testing.assert_close(found.double(), plain(*(half.double() for half in halves), labels, weights),
                               rtol=1e-5, atol=0)


def test_no_position_gives_a_connected_zero():
    empty = torch.zeros(0, 6, requires_grad=True)
    loss = unlikelihood_loss(empty, torch.randn(23, 6), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    loss.backward()
    assert loss == 0 and empty.grad.shape == (0, 6)


def test_parts_add_up_to_the_whole_and_second_derivatives_are_refused():
    states, head, labels, weights = problem()
    parts = [unlikelihood_loss(states[a:b], head, labels[a:b], weights[a:b]) for a, b in ((0, 4), (4, 5), (5, 17))]
    torch.testing.assert_close(sum(parts), unlikelihood_loss(states, head, labels, weights))
    loss = unlikelihood_loss(states.requires_grad_(), head, labels, weights)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(loss, states, create_graph=True)
