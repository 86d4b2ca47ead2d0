"""Alpha scaled between the middles of CTC labels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from blspkd.models.adapters.adapter import Sides
from blspkd.models.adapters.cformer import CFormer
from blspkd.models.cif import fire, scale_locally
from blspkd.models.ctc_alignment import align_count, cuts_between

FIVE = torch.tensor([[4, 8, 12, 16, 20]])


def test_one_token_that_is_too_quiet_moves_no_other_fire():
    """Five tokens of four frames; the alpha of the second is 60 % low. As a whole line it stretches all others."""
    alpha = torch.full((1, 20), 0.25)
    alpha[0, 4:8] *= 0.4
    frames, five = torch.randn(1, 20, 3), torch.tensor([5])
    globally = fire(frames, alpha, five).times[0].tolist()
    assert [round(time, 1) for time in globally] == [3.5, 9.4, 13.0, 16.5, 20.0]
    locally = fire(frames, scale_locally(alpha, FIVE), five)
    torch.testing.assert_close(locally.times[0], torch.tensor([4.0, 8.0, 12.0, 16.0, 20.0]), rtol=0, atol=1e-6)
    torch.testing.assert_close(locally.tokens[0], frames[0].unflatten(0, (5, 4)).mean(1), rtol=1e-5, atol=1e-6)


def test_at_equal_mass_it_fires_as_the_whole_line_does():
    torch.manual_seed(0)
    alpha = torch.rand(1, 20) + 0.01
    alpha = (alpha.unflatten(1, (5, 4)) / alpha.unflatten(1, (5, 4)).sum(2, keepdim=True)).flatten(1) * 0.7
    frames, five = torch.randn(1, 20, 3), torch.tensor([5])
    one, other = fire(frames, alpha, five), fire(frames, scale_locally(alpha, FIVE), five)
    torch.testing.assert_close(other.times, one.times, rtol=0, atol=1e-5)
    torch.testing.assert_close(other.tokens, one.tokens, rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=5), min_size=1, max_size=4), st.integers(0, 999),
       st.sampled_from([0.0, 0.5]))
def test_every_token_is_the_weighted_mean_of_its_own_stretch(sizes, seed, silent):
    """Whatever the padding and the batch mates; a stretch without alpha is spread evenly."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [sum(row) for row in sizes]
    alphas = [torch.rand(n, generator=generator) * (torch.rand(n, generator=generator) >= silent) for n in lengths]
    alpha = pad_sequence(alphas, batch_first=True)
    frames = torch.randn(len(sizes), max(lengths), 2, generator=generator)
    cuts = pad_sequence([torch.tensor(row).cumsum(0) for row in sizes], batch_first=True, padding_value=-1)
    fired = fire(frames, scale_locally(alpha, cuts), torch.tensor([len(row) for row in sizes]))
    for row, size in enumerate(sizes):
        ends = [0, *torch.tensor(size).cumsum(0).tolist()]
        for token, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
            weights = alpha[row, start:end].double()
            weights = weights if weights.sum() > 0 else torch.ones_like(weights)
            mean = (weights[:, None] * frames[row, start:end].double()).sum(0) / weights.sum()
            torch.testing.assert_close(fired.tokens[row, token].double(), mean, rtol=1e-4, atol=1e-5)


def test_its_gradient_is_that_of_the_formula():
    alpha = (torch.rand(2, 9, dtype=torch.float64) + 0.1).requires_grad_()
    cuts = torch.tensor([[3, 5, 9], [4, 7, -1]])
    padded = torch.ones(2, 9, dtype=torch.float64)
    padded[1, 7:] = 0
    assert torch.autograd.gradcheck(lambda a: scale_locally(a * padded, cuts), alpha)


def test_without_cuts_an_utterance_is_scaled_as_a_whole():
    alpha = torch.rand(2, 6)
    scaled = scale_locally(alpha, torch.tensor([[-1, -1], [2, 6]]))
    assert torch.equal(scaled[0].float(), alpha[0])
    torch.testing.assert_close(scaled[1].unflatten(0, (3, 2)).sum(1)[0], torch.tensor(1.0, dtype=torch.float64))


SMALL = {"num_pre_cif_layers": 1, "num_post_cif_layers": 0, "heads": 2, "ffn_dim": 8, "ctc_classes": 5}


@torch.no_grad()
def test_an_adapter_cuts_where_its_counter_hears_the_transcript_or_so_many_labels():
    torch.manual_seed(0)
    local = CFormer(CFormer.Options(**SMALL, scaling="local", count="ctc"), Sides(8, 6, 0.1)).eval()
    plain = CFormer(CFormer.Options(**SMALL, count="ctc"), Sides(8, 6, 0.1)).eval()
    plain.load_state_dict(local.state_dict())  # no weights of its own
    lengths = torch.tensor([40, 23])
    frames = torch.randn(2, 40, 8) * (torch.arange(40) < lengths[:, None])[..., None]
    speech, other = local(frames, lengths), plain(frames, lengths)
    assert speech.n_tokens.tolist() == other.n_tokens.tolist()
    torch.testing.assert_close(speech.alpha, other.alpha, rtol=0, atol=0)
    cuts = cuts_between(align_count(speech.ctc_logits, lengths, speech.n_tokens), speech.n_tokens.numpy(),
                        lengths.numpy())
    for row, n in enumerate(speech.n_tokens.tolist()):
        torch.testing.assert_close(speech.fire_times[row, :n], torch.from_numpy(cuts[row, :n]).float(), rtol=0,
                                   atol=1e-4)
    assert not torch.allclose(speech.fire_times, other.fire_times)
    told = local(frames, lengths, torch.tensor([3, 2]), torch.tensor([7, 3, 9, 4, 4]))
    alone = local(frames[1:, :23], lengths[1:], torch.tensor([2]), torch.tensor([4, 4]))
    torch.testing.assert_close(told.tokens[1, :2], alone.tokens[0], rtol=1e-3, atol=1e-5)
    assert told.fire_times[0, 2] == pytest.approx(40, abs=1e-3) and told.n_tokens.tolist() == [3, 2]


def test_local_scaling_needs_a_counter():
    from blspkd.errors import ConfigError
    with pytest.raises(ConfigError, match="scaling: local needs the counter that ctc_classes makes"):
        CFormer.Options(scaling="local")
