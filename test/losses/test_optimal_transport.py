"""Optimal transport against assignments by brute force, plain loops in float64, and its own definitions."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blspkd.losses.optimal_transport import Ground, Points, divergence, ipot, sinkhorn, transport_cost


def points(*rows):
    """Sequences of vectors of one width -> Points."""
    vectors = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    return Points(vectors, torch.tensor([len(row) for row in rows]))


def drawn(sizes, width=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return points(*(torch.randn(size, width, generator=generator, dtype=dtype) for size in sizes))


def exact(cost):
    """The cheapest plan's cost for any n x m: as many copies of each point as make both sides equally long."""
    n, m = cost.shape
    size = math.lcm(n, m)
    cost = cost.repeat_interleave(size // n, 0).repeat_interleave(size // m, 1)
    if size <= 6:
        return min(sum(cost[i, j].item() for i, j in enumerate(order))
                   for order in itertools.permutations(range(size))) / size
    return _assignment(cost.tolist()) / size


def _assignment(cost):
    """The cheapest assignment by dynamic programming over the set of columns that are taken."""
    size, best = len(cost), {0: 0.0}
    for row in range(size):
        further = {}
        for taken, value in best.items():
            for column in range(size):
                if not taken >> column & 1:
                    key = taken | 1 << column
                    further[key] = min(further.get(key, math.inf), value + cost[row][column])
        best = further
    return best[(1 << size) - 1]


def plain_sinkhorn(cost, epsilon, iterations):
    """The value of the entropic problem, straight from its definition: scaled kernels, numpy, one utterance."""
    n, m = cost.shape
    a, b, kernel = np.full(n, 1 / n), np.full(m, 1 / m), np.exp(-cost / epsilon) / (n * m)
    v = np.ones(m)
    for _ in range(iterations):
        u = a / (kernel @ v)
        v = b / (kernel.T @ u)
    plan = u[:, None] * kernel * v
    return (plan * cost).sum() + epsilon * (plan * np.log(plan * n * m)).sum(), plan


def plain_ipot(cost, beta, iterations):
    """Algorithm 1 of arXiv 1802.04307, with loops over rows and columns."""
    n, m = cost.shape
    plan, sigma = np.ones((n, m)), np.full(m, 1 / m)
    for _ in range(iterations):
        q = np.exp(-cost / beta) * plan
        delta = np.array([1 / (n * sum(q[i, j] * sigma[j] for j in range(m))) for i in range(n)])
        sigma = np.array([1 / (m * sum(q[i, j] * delta[i] for i in range(n))) for j in range(m)])
        plan = delta[:, None] * q * sigma
    return plan


def plan_of(cost, x, y, epsilon, iterations):
    """The entropic problem's plan: what the value's gradient is."""
    return torch.autograd.functional.jacobian(
        lambda c: sinkhorn(c, x.lengths, y.lengths, epsilon, iterations).sum(), cost)


@pytest.mark.parametrize("n", range(1, 7))
def test_small_epsilon_and_ipot_find_the_best_of_all_permutations(n):
    x, y = drawn([n], seed=n), drawn([n], seed=100 + n)
    cost = Ground().cost(x, y)
    wanted = exact(cost[0])
    assert transport_cost(ipot(cost, x.lengths, y.lengths), cost).item() == pytest.approx(wanted, abs=3e-3)
    assert transport_cost(plan_of(cost, x, y, 0.005, 1000), cost).item() == pytest.approx(wanted, abs=0.0013)


@pytest.mark.parametrize("n, m", [(1, 4), (2, 3), (4, 2), (3, 4), (6, 4), (5, 2)])
def test_sequences_of_other_lengths_equal_the_assignment_of_repeated_points(n, m):
    x, y = drawn([n], seed=n), drawn([m], seed=50 + m)
    cost = Ground("euclidean", mean_square=5.0).cost(x, y)
    wanted = exact(cost[0])
    assert transport_cost(ipot(cost, x.lengths, y.lengths, 0.1, 200), cost).item() == pytest.approx(wanted, abs=2e-3)
    assert transport_cost(plan_of(cost, x, y, 0.005, 1000), cost).item() == pytest.approx(wanted, abs=2e-3)


def test_ipot_is_its_algorithm_and_brings_the_plan_to_its_sums():
    x, y = drawn([4, 2, 3], seed=3), drawn([4, 3, 1], seed=4)
    cost = Ground().cost(x, y)
    plan = ipot(cost, x.lengths, y.lengths)
    for b, (n, m) in enumerate(zip(x.lengths.tolist(), y.lengths.tolist(), strict=True)):
        np.testing.assert_allclose(plan[b, :n, :m], plain_ipot(cost[b, :n, :m].numpy(), 0.5, 50), rtol=1e-9, atol=1e-15)
        assert (plan[b].sum(1)[:n] - 1 / n).abs().max() < 3e-5
        torch.testing.assert_close(plan[b].sum(0)[:m], torch.full((m,), 1 / m, dtype=torch.float64))
        assert not plan[b, n:].any() and not plan[b, :, m:].any()


@pytest.mark.parametrize("n", range(1, 7))
def test_a_permutation_is_recovered(n):
    order = torch.randperm(n, generator=torch.Generator().manual_seed(n))
    cost = (1 - torch.eye(n, dtype=torch.float64)[order])[None]
    plan = ipot(cost, torch.tensor([n]), torch.tensor([n]))
    assert torch.equal((plan[0] * n).round(), torch.eye(n, dtype=torch.float64)[order])
    assert transport_cost(plan, cost).item() < 1e-12


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_sinkhorn_is_the_entropic_problem_and_its_gradient_the_plan(epsilon):
    x, y = drawn([4, 3], seed=5), drawn([2, 5], seed=6)
    cost = Ground().cost(x, y).requires_grad_()
    values = sinkhorn(cost, x.lengths, y.lengths, epsilon, 500)
    plan, = torch.autograd.grad(values.sum(), cost)
    for b, (n, m) in enumerate(zip(x.lengths.tolist(), y.lengths.tolist(), strict=True)):
        value, wanted = plain_sinkhorn(cost[b, :n, :m].detach().numpy(), epsilon, 500)
        assert values[b].item() == pytest.approx(value, abs=1e-9)
        np.testing.assert_allclose(plan[b, :n, :m], wanted, atol=1e-9)
        assert not plan[b, n:].any() and not plan[b, :, m:].any()


def test_what_epsilon_costs_vanishes_with_it():
    x, y = drawn([4], seed=7), drawn([4], seed=8)
    cost = Ground().cost(x, y)
    gaps = [abs(sinkhorn(cost, x.lengths, y.lengths, epsilon, 1000).item() - exact(cost[0]))
            for epsilon in (0.5, 0.05, 0.005, 0.0005)]
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 1e-3


@pytest.mark.parametrize("kind", ["cosine", "euclidean"])
def test_divergence_is_exactly_0_for_equal_sequences_and_above_for_others(kind):
    x, y = drawn([5, 2, 1], seed=9), drawn([3, 4, 2], seed=10)
    ground = Ground(kind, positions=0.7)
    assert not divergence(x, x, ground, 0.05**2).any()
    assert not divergence(x, x, ground, 1.0, 3).any()
    assert (divergence(x, y, ground, 0.05**2, 200) > 0).all()
    torch.testing.assert_close(divergence(x, y, ground, 0.1, 200), divergence(y, x, ground, 0.1, 200))


def test_divergence_is_its_definition():
    x, y, ground = drawn([4], seed=11), drawn([3], seed=12), Ground("euclidean", 3.0, 0.5)

    def value(p, q):
        return plain_sinkhorn(ground.cost(p, q)[0].numpy(), 0.2, 500)[0]

    wanted = value(x, y) - value(x, x) / 2 - value(y, y) / 2
    assert divergence(x, y, ground, 0.2, 500).item() == pytest.approx(wanted, abs=1e-9)


def test_divergence_equals_geomloss_with_the_position_as_a_channel():
    geomloss = pytest.importorskip("geomloss")
    x, y = drawn([6], seed=13), drawn([4], seed=14)
    theirs = geomloss.SamplesLoss("sinkhorn", p=2, blur=0.05, scaling=0.999, backend="tensorized")
    channels = [torch.cat([p.vectors[0], torch.linspace(0, 1, int(p.lengths), dtype=torch.float64)[:, None]], 1)
                for p in (x, y)]
    wanted = theirs(*channels).item()
    found = divergence(x, y, Ground("euclidean", positions=1.0), 0.05**2, 5000).item()
    assert found == pytest.approx(wanted, rel=1e-4)  # both have converged


def test_costs_are_what_they_say():
    x, y = drawn([3, 1], seed=15), drawn([2, 4], seed=16)
    cosine, euclidean = Ground(positions=0.3).cost(x, y), Ground("euclidean", 2.5, 0.3).cost(x, y)
    for b, (n, m) in enumerate([(3, 2), (1, 4)]):
        for i, j in itertools.product(range(n), range(m)):
            p, q = x.vectors[b, i], y.vectors[b, j]
            place = 0.3 * (i / max(1, n - 1) - j / max(1, m - 1)) ** 2 / 2
            assert cosine[b, i, j].item() == pytest.approx(
                1 - (p @ q / p.norm() / q.norm()).item() + place, abs=1e-12)
            assert euclidean[b, i, j].item() == pytest.approx(((p - q) @ (p - q)).item() / 2 / 2.5 + place, abs=1e-12)
    assert not cosine[1, 1:].any() and not cosine[0, :, 2:].any()


VALUES = {"ipot": lambda x, y, ground: transport_cost(ipot(ground.cost(x, y), x.lengths, y.lengths),
                                                      ground.cost(x, y)),
          "sinkhorn": lambda x, y, ground: divergence(x, y, ground, 0.05**2, 20)}


@pytest.mark.parametrize("method", VALUES)
def test_the_order_counts_only_with_positions_and_as_much_as_their_weight(method):
    x = drawn([6], seed=17)
    turned = points(x.vectors[0].flip(0))
    value = VALUES[method]
    without = [value(x, y, Ground()).item() for y in (x, turned)]
    assert without[0] == pytest.approx(without[1], abs=1e-9)
    costs = [value(x, turned, Ground(positions=weight)).item() for weight in (0.0, 0.1, 0.2)]
    assert value(x, x, Ground(positions=0.1)).item() < costs[1] < costs[2]
    place = 0.1 * sum((i - (5 - i)) ** 2 / 25 / 2 for i in range(6)) / 6  # all mass goes to the equal vector
    assert costs[1] - costs[0] == pytest.approx(place, rel=0.02)
    assert costs[2] - costs[0] == pytest.approx(2 * place, rel=0.05)


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 5)), min_size=1, max_size=4), st.sampled_from(list(VALUES)),
       st.sampled_from(["cosine", "euclidean"]), st.integers(0, 99))
def test_padding_and_batch_mates_have_no_effect(sizes, method, kind, seed):
    x, y = drawn([n for n, _ in sizes], seed=seed), drawn([m for _, m in sizes], seed=seed + 1)
    ground, value = Ground(kind, positions=0.5), VALUES[method]
    found = value(x, y, ground)
    soiled = []
    for p in (x, y):  # whatever stands on padding: bit for bit
        vectors = p.vectors.masked_fill(~p.is_real()[..., None], float("nan"))
        soiled.append(Points(vectors.requires_grad_(), p.lengths))
    assert torch.equal(value(*soiled, ground), found)
    value(*soiled, ground).sum().backward()
    for p in soiled:
        assert torch.isfinite(p.vectors.grad).all() and not p.vectors.grad[~p.is_real()].any()
    wider = [Points(torch.nn.functional.pad(p.vectors, (0, 0, 0, 3), value=7.0), p.lengths) for p in (x, y)]
    alone = torch.cat([value(points(x.vectors[b, :n]), points(y.vectors[b, :m]), ground)
                       for b, (n, m) in enumerate(sizes)])
    for other in (value(*wider, ground), alone):  # sums over another number of zeros: equal as float32 is
        torch.testing.assert_close(other, found, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("method", VALUES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_what_the_same_numbers_give_in_float32(method, dtype):
    x, y = (drawn(sizes, seed=18, dtype=torch.float32) for sizes in ([5, 3], [4, 6]))
    halves = [Points(p.vectors.to(dtype), p.lengths) for p in (x, y)]
    floats = [Points(p.vectors.float(), p.lengths) for p in halves]
    with torch.autocast("cpu", torch.bfloat16):
        found = VALUES[method](*halves, Ground(positions=1.0))
    assert torch.equal(found, VALUES[method](*floats, Ground(positions=1.0)))


def test_gradients_are_those_of_the_values():
    x, y = drawn([3, 2], width=2, seed=19), drawn([2, 3], width=2, seed=20)
    for kind in ("cosine", "euclidean"):
        ground = Ground(kind, positions=0.4)
        assert torch.autograd.gradcheck(
            lambda vectors, ground=ground: divergence(Points(vectors, x.lengths), y, ground, 0.5, 300),
            x.vectors.clone().requires_grad_())
    plan = ipot(Ground().cost(x, y), x.lengths, y.lengths)  # fixed, as in UNITER
    assert torch.autograd.gradcheck(
        lambda vectors: transport_cost(plan, Ground().cost(Points(vectors, x.lengths), y)),
        x.vectors.clone().requires_grad_())
