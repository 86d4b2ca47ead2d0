"""CFormer with stacked frames."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blspkd.models.adapters.adapter import Sides
from blspkd.models.adapters.cformer import CFormer

SIDES = Sides(encoder_width=8, llm_width=6, embedding_rms=0.1)
SMALL = {"heads": 2, "ffn_dim": 16, "num_pre_cif_layers": 1, "num_post_cif_layers": 1, "ctc_classes": 5}


def made(stack_frames: int) -> CFormer:
    torch.manual_seed(0)
    return CFormer(CFormer.Options(**SMALL, stack_frames=stack_frames), SIDES).eval()


def batch_of(lengths: list[int]) -> torch.Tensor:
    """Frames of these lengths, zero on padding."""
    torch.manual_seed(1)
    return torch.nn.utils.rnn.pad_sequence([torch.randn(length, 8) for length in lengths], batch_first=True)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 13), min_size=1, max_size=4), st.integers(1, 4))
@torch.no_grad()
def test_an_utterance_is_heard_alone_as_among_others(lengths, stack_frames):
    adapter, frames = made(stack_frames), batch_of(lengths)
    together = adapter(frames, torch.tensor(lengths))
    assert together.frame_lengths.tolist() == [math.ceil(length / stack_frames) for length in lengths]
    assert together.alpha.shape[1] == together.ctc_logits.shape[1] == max(together.frame_lengths)
    for row, length in enumerate(lengths):
        alone = adapter(frames[row:row + 1, :length], torch.tensor([length]))
        n = int(alone.n_tokens[0])
        assert n == together.n_tokens[row]
        torch.testing.assert_close(together.tokens[row, :n], alone.tokens[0], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(together.fire_times[row, :n], alone.fire_times[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stack_frames", [2, 3])
@torch.no_grad()
def test_stacked_frames_start_as_their_mean_and_times_stay_in_encoder_frames(stack_frames):
    stacked, plain = made(stack_frames), made(1)
    plain.load_state_dict({name: value for name, value in stacked.state_dict().items() if "stack." not in name})
    frames, lengths, n_tokens = batch_of([12, 12]), torch.tensor([12, 12]), torch.tensor([3, 4])
    heard = stacked(frames, lengths, n_tokens)
    means = plain(frames.unflatten(1, (-1, stack_frames)).mean(2), lengths // stack_frames, n_tokens)
    torch.testing.assert_close(heard.tokens, means.tokens, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(heard.fire_times, means.fire_times * stack_frames)
    assert (heard.stacked, means.stacked) == (stack_frames, 1)
    assert heard.fire_times.max() <= 12 + stack_frames


def test_every_frame_of_a_stack_is_heard():
    frames = batch_of([9]).requires_grad_()
    made(2)(frames, torch.tensor([9]), torch.tensor([3])).tokens.pow(2).sum().backward()
    assert (frames.grad.abs().sum(-1) > 0).all()
