"""CIF against a scalar float64 loop written from the definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blspkd.models.cif import count, fire


def plain_cif(frames, alpha, n):
    """Tokens [n, C], per-frame weight sums [T] and fire times [n] of one utterance, frame by frame in float64."""
    total = sum(alpha.tolist())
    tokens = torch.zeros(n, frames.shape[1], dtype=torch.float64)
    used = torch.zeros(len(alpha), dtype=torch.float64)
    times = torch.zeros(n)
    before = 0.0
    for t, value in enumerate(alpha.tolist()):
        after = before + value * n / total
        if t == len(alpha) - 1 or sum(alpha.tolist()[t + 1:]) == 0:
            after = float(n)
        for u in range(math.floor(before), n):
            overlap = min(after, u + 1) - max(before, u)
            if overlap <= 0:
                break
            tokens[u] += overlap * frames[t].double()
            used[t] += overlap
            if after >= u + 1 and before < u + 1:
                times[u] = t + (u + 1 - before) / (after - before)
        before = after
    return tokens, used, times


@st.composite
def batches(draw):
    """A ragged batch with stretches of silence, several fires in one frame, and more tokens than frames."""
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    size, longest = draw(st.integers(1, 5)), draw(st.integers(1, 40))
    lengths = torch.randint(1, longest + 1, (size,), generator=generator)
    lengths[0] = longest
    alpha = torch.rand(size, longest, generator=generator)
    alpha *= torch.rand(size, longest, generator=generator) > draw(st.sampled_from([0.0, 0.5, 0.9]))
    alpha *= torch.arange(longest) < lengths[:, None]
    alpha[:, 0] += 0.01
    n_tokens = torch.randint(1, draw(st.sampled_from([2, 12, 80])), (size,), generator=generator)
    return torch.randn(size, longest, 3, generator=generator), alpha, lengths, n_tokens


@settings(max_examples=300, deadline=None)
@given(batches())
def test_equals_the_plain_loop(batch):
    frames, alpha, _, n_tokens = batch
    fired = fire(frames, alpha, n_tokens)
    for b, n in enumerate(n_tokens.tolist()):
        tokens, _, times = plain_cif(frames[b], alpha[b], n)
        torch.testing.assert_close(fired.tokens[b, :n].double(), tokens, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(fired.times[b, :n], times, atol=1e-3, rtol=1e-4)
        assert fired.tokens[b, n:].abs().sum() == 0 and fired.times[b, n:].abs().sum() == 0
        assert fired.mask[b].sum() == n


@settings(max_examples=200, deadline=None)
@given(batches())
def test_weights_of_tokens_sum_to_one_and_of_frames_to_their_alpha(batch):
    _, alpha, _, n_tokens = batch
    size, length = alpha.shape
    identity = torch.eye(length).expand(size, -1, -1)
    weights = fire(identity, alpha, n_tokens).tokens  # [B, N, T]
    scaled = alpha.double() / alpha.double().sum(1, keepdim=True) * n_tokens[:, None]
    torch.testing.assert_close(weights.sum(1), scaled.float(), atol=1e-5, rtol=1e-5)
    for b, n in enumerate(n_tokens.tolist()):
        torch.testing.assert_close(weights[b, :n].sum(1), torch.ones(n), atol=1e-5, rtol=1e-5)


@settings(max_examples=100, deadline=None)
@given(batches())
def test_an_utterance_does_not_depend_on_its_batch_mates_or_padding(batch):
    frames, alpha, lengths, n_tokens = batch
    together = fire(frames, alpha, n_tokens)
    for b, n in enumerate(n_tokens.tolist()):
        alone = fire(frames[b:b + 1, :lengths[b]], alpha[b:b + 1, :lengths[b]], n_tokens[b:b + 1])
        assert torch.equal(together.tokens[b, :n], alone.tokens[0])
        assert torch.equal(together.times[b, :n], alone.times[0])


def test_garbage_in_padding_frames_does_not_leak():
    frames, alpha = torch.randn(2, 6, 3), torch.rand(2, 6)
    alpha[1, 4:] = 0
    clean = fire(frames, alpha, torch.tensor([3, 2])).tokens
    frames[1, 4:] = float("nan")
    assert torch.equal(fire(frames, alpha, torch.tensor([3, 2])).tokens, clean)


@pytest.mark.parametrize("n", [1, 3, 11])
def test_gradients(n):
    torch.manual_seed(n)
    frames = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    alpha = (torch.rand(2, 7, dtype=torch.float64) + 0.1).requires_grad_()
    n_tokens = torch.tensor([n, max(1, n - 1)])
    assert torch.autograd.gradcheck(lambda f, a: fire(f, a, n_tokens).tokens, (frames, alpha))


@pytest.mark.parametrize("differentiable", [("frames",), ("alpha",), ("frames", "alpha")])
def test_second_derivatives_are_refused_not_wrong(differentiable):
    """The gradient of the frames depends on alpha, which its formula takes for a constant, and the other way round."""
    torch.manual_seed(0)
    inputs = {"frames": torch.randn(2, 7, 3), "alpha": torch.rand(2, 7) + 0.1}
    leaves = [inputs[name].requires_grad_() for name in differentiable]
    tokens = fire(inputs["frames"], inputs["alpha"], torch.tensor([3, 2])).tokens
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(tokens.sum(), leaves, create_graph=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_frames_fire_at_the_same_places(dtype):
    torch.manual_seed(0)
    frames, alpha = torch.randn(3, 400, 8), (torch.rand(3, 400) * 0.5).to(dtype)
    n_tokens = torch.tensor([100, 261, 7])
    half, full = fire(frames.to(dtype), alpha, n_tokens), fire(frames, alpha.float(), n_tokens)
    assert torch.equal(half.times, full.times)
    torch.testing.assert_close(half.tokens.float(), full.tokens, atol=0.05, rtol=0.05)


def test_autocast_does_not_move_fires():
    torch.manual_seed(0)
    frames, alpha, n_tokens = torch.randn(2, 300, 8), torch.rand(2, 300), torch.tensor([90, 40])
    expected = fire(frames, alpha, n_tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = fire(frames, alpha, n_tokens)
    assert torch.equal(found.times, expected.times) and torch.equal(found.tokens, expected.tokens)


def test_all_zero_alpha_gives_zero_tokens_not_nan():
    fired = fire(torch.randn(2, 5, 3), torch.stack([torch.zeros(5), torch.ones(5)]), torch.tensor([4, 4]))
    assert torch.equal(fired.tokens[0], torch.zeros(4, 3)) and fired.tokens.isfinite().all()
    assert torch.equal(fired.times[0], torch.zeros(4)) and fired.mask.all()


def test_alpha_that_is_not_finite_gives_tokens_that_are_not_and_spares_batch_mates():
    frames, alpha = torch.randn(2, 5, 3), torch.rand(2, 5)
    clean = fire(frames, alpha, torch.tensor([2, 2])).tokens
    alpha[0, 1] = float("nan")
    tokens = fire(frames, alpha, torch.tensor([2, 2])).tokens
    assert tokens[0].isnan().all() and torch.equal(tokens[1], clean[1])


def test_count_rounds_and_is_at_least_one():
    alpha = torch.tensor([[0.9, 0.9, 0.9], [0.1, 0.1, 0.0], [0.5, 0.5, 0.5], [1.0, 1.0, 0.5]])
    assert count(alpha).tolist() == [3, 1, 2, 2]  # halves go to the even number


@pytest.mark.parametrize(("batch", "length"), [(0, 5), (0, 0), (2, 0)])
def test_no_utterance_and_no_frame_are_integrated_like_any_other_number(batch, length):
    frames, alpha = torch.randn(batch, length, 3, requires_grad=True), torch.rand(batch, length, requires_grad=True)
    n_tokens = torch.tensor([1, 4])[:batch]
    assert torch.equal(count(alpha), torch.ones(batch, dtype=torch.int64))
    fired = fire(frames, alpha, n_tokens)
    assert fired.tokens.shape == (batch, 4 if batch else 0, 3) and fired.tokens.dtype == frames.dtype
    assert not fired.tokens.any() and not fired.times.any() and fired.mask.sum(1).tolist() == n_tokens.tolist()
    fired.tokens.sum().backward()
    assert frames.grad.shape == frames.shape and alpha.grad.shape == alpha.shape
