"""CIF over 100,000 random utterances against the definition, frame by frame in float64."""

import pytest
import torch

from blspkd.models.cif import fire

UTTERANCES, SEEDS = 5000, 20


def by_definition(frames, alpha, n_tokens, longest):
    """Tokens and fire times: frame t gives token u the overlap of [before, after] with [u, u + 1]."""
    total = alpha.sum(1)
    scaled = alpha * (n_tokens / torch.where(total > 0, total, 1))[:, None]
    silent_from_here = alpha.flip(1).cumsum(1).flip(1) == 0
    start = torch.arange(longest, dtype=torch.float64)  # of token u, which closes at u + 1
    tokens = torch.zeros(len(alpha), longest, frames.shape[2], dtype=torch.float64)
    times = torch.zeros(len(alpha), longest, dtype=torch.float64)
    before = torch.zeros(len(alpha), 1, dtype=torch.float64)
    for t in range(alpha.shape[1]):
        after = before + scaled[:, t:t + 1]
        if t + 1 == alpha.shape[1]:
            ended = total > 0
        else:
            ended = silent_from_here[:, t + 1] & (total > 0)
        after = torch.where(ended[:, None], n_tokens[:, None].double(), after)  # without rounding
        overlap = (torch.minimum(after, start + 1) - torch.maximum(before, start)).clamp(min=0)
        tokens += overlap[:, :, None] * frames[:, t:t + 1]
        closes = (before < start + 1) & (start + 1 <= after)
        times = torch.where(closes, t + (start + 1 - before) / (after - before), times)
        before = after
    return tokens, times


def utterances(seed):
    """Every corner: one frame, one token, more tokens than frames, long or utter silence, ragged lengths."""
    generator = torch.Generator().manual_seed(seed)
    length, most = [(1, 6), (2, 1), (9, 30), (40, 4), (40, 60)][seed % 5]
    alpha = torch.rand(UTTERANCES, length, generator=generator) ** [1, 4, 12][seed % 3]  # 12: several fires in a frame
    silent = torch.rand(UTTERANCES, 1, generator=generator)  # share of silent frames, by utterance
    alpha *= torch.rand(alpha.shape, generator=generator) >= silent * (torch.arange(UTTERANCES) % 4 > 0)[:, None]
    first = torch.randint(0, length, (UTTERANCES, 1), generator=generator)
    stretch = torch.randint(0, length + 1, (UTTERANCES, 1), generator=generator)
    place = torch.arange(length)
    alpha *= ~((place >= first) & (place < first + stretch) & (torch.arange(UTTERANCES) % 3 == 0)[:, None])
    alpha *= place < torch.randint(1, length + 1, (UTTERANCES, 1), generator=generator)
    alpha *= alpha > 1e-9  # below, float64 no longer tells in which frame the line ends; tokens do not change
    alpha[::97] = 0
    frames = torch.randn(UTTERANCES, length, 3, generator=generator)
    frames[..., 0] = 1  # sums of weights
    return frames, alpha, torch.randint(1, most + 1, (UTTERANCES,), generator=generator)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_tokens_times_and_sums_of_weights(seed):
    frames, alpha, n_tokens = utterances(seed)
    frames.requires_grad_()
    fired = fire(frames, alpha, n_tokens)
    longest = int(n_tokens.max())
    tokens, times = by_definition(frames.detach().double(), alpha.double(), n_tokens, longest)
    torch.testing.assert_close(fired.tokens.double(), tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fired.times.double(), times, atol=1e-3, rtol=1e-5)
    assert torch.equal(fired.mask, torch.arange(longest) < n_tokens[:, None])

    sounds = alpha.sum(1) > 0
    sums_of_tokens = fired.tokens[..., 0].detach()[fired.mask & sounds[:, None]]
    assert (sums_of_tokens - 1).abs().max() <= 1e-5
    sums_of_frames = torch.autograd.grad(fired.tokens[..., 0].sum(), frames)[0][..., 0].double()
    scaled = alpha.double() * (n_tokens / torch.where(sounds, alpha.double().sum(1), 1))[:, None]
    assert ((sums_of_frames - scaled).abs() <= 1e-5 * scaled.clamp(min=1)).all()
    assert (fired.tokens.detach()[~sounds] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed", [3, 4])
def test_half_precision_inputs_fire_at_the_same_places(seed, dtype):
    frames, alpha, n_tokens = utterances(seed)
    alpha = alpha.to(dtype)
    half, full = fire(frames.to(dtype), alpha, n_tokens), fire(frames, alpha.float(), n_tokens)
    assert torch.equal(half.times, full.times)
