"""Groups of frames as tokens: their lengths, their means, and that batch mates do not matter."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from blspkd.config import LossConfig, ModelConfig, PromptConfig, TrainConfig
from blspkd.errors import ConfigError
from blspkd.models.adapters.adapter import Sides
from blspkd.models.adapters.grouping import Grouping, in_groups, mean_of_groups
from blspkd.models.speech_llm import SpeechLlm
from blspkd.training.run import resolved

C, D = 8, 6
SIDES = Sides(encoder_width=C, llm_width=D, embedding_rms=0.1)
LENGTHS = st.lists(st.integers(1, 13), min_size=1, max_size=4)


def made(size: int, **options) -> Grouping:
    torch.manual_seed(0)
    return Grouping(Grouping.Options(size=size, **options), SIDES).eval()


def batch_of(lengths: list[int]) -> torch.Tensor:
    """Frames of these lengths, zero on padding."""
    torch.manual_seed(1)
    return torch.nn.utils.rnn.pad_sequence([torch.randn(length, C) for length in lengths], batch_first=True)


@pytest.mark.parametrize("projection", ["mean", "concat"])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_k_frames_make_a_token_and_what_is_left_makes_one_more(size, projection):
    for length in range(1, 12):
        heard = made(size, projection=projection)(batch_of([length]), torch.tensor([length]))
        assert heard.n_tokens.tolist() == [math.ceil(length / size)]
        assert heard.tokens.shape == (1, math.ceil(length / size), D)


@given(LENGTHS, st.integers(1, 6))
def test_the_mean_of_a_group_is_that_of_a_loop_over_its_real_frames(lengths, size):
    frames = batch_of(lengths)
    found = mean_of_groups(in_groups(frames, size), torch.tensor(lengths))
    for row, length in enumerate(lengths):
        for group in range(found.shape[1]):
            real = [frames[row, t].double() for t in range(group * size, min(length, (group + 1) * size))]
            expected = sum(real) / len(real) if real else torch.zeros(C).double()
            torch.testing.assert_close(found[row, group].double(), expected, rtol=1e-6, atol=1e-6)


@given(LENGTHS, st.integers(1, 6), st.sampled_from(["mean", "concat"]))
@torch.no_grad()
def test_an_utterance_is_heard_alone_as_among_others_bit_for_bit(lengths, size, projection):
    """Whole numbers that every size of a group divides: no order of a matrix product's sums rounds anything."""
    adapter, frames = made(size, projection=projection), (batch_of(lengths) * 4).round() * 60
    adapter.to_llm.weight.copy_((adapter.to_llm.weight * 8).round())
    together = adapter(frames, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone = adapter(frames[row:row + 1, :length], torch.tensor([length]))
        assert torch.equal(together.tokens[row, :int(alone.n_tokens)], alone.tokens[0])
        assert int(together.n_tokens[row]) == int(alone.n_tokens)


@given(LENGTHS, st.integers(1, 6))
def test_the_means_do_not_know_the_batch_bit_for_bit(lengths, size):
    frames = batch_of(lengths)
    together = mean_of_groups(in_groups(frames, size), torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone = mean_of_groups(in_groups(frames[row:row + 1, :length], size), torch.tensor([length]))[0]
        assert torch.equal(together[row, :len(alone)], alone) and not together[row, len(alone):].any()


def test_a_constant_input_gives_a_constant_output_also_in_a_group_that_is_not_full():
    tokens = made(4)(torch.randn(1, 1, C, generator=torch.Generator().manual_seed(2)).expand(1, 11, C),
                     torch.tensor([11])).tokens
    torch.testing.assert_close(tokens, tokens[:, :1].expand_as(tokens))


@pytest.mark.parametrize("projection", ["mean", "concat"])
def test_groups_of_one_are_a_linear_layer_without_bias(projection):
    plain, scaled = (made(1, projection=projection, match_embedding_norm=norm) for norm in (False, True))
    frames = batch_of([7])
    assert torch.equal(plain(frames, torch.tensor([7])).tokens, frames @ plain.to_llm.weight.T)
    tokens = scaled(frames, torch.tensor([7])).tokens
    assert [name for name, _ in scaled.named_parameters()] == ["to_llm.weight"]
    torch.testing.assert_close(tokens.pow(2).mean(-1).sqrt(), torch.full((1, 7), 0.1))
    torch.testing.assert_close(cosine_similarity(tokens, frames @ scaled.to_llm.weight.T, -1), torch.ones(1, 7))


def test_concat_reads_the_order_of_frames_and_the_mean_does_not():
    frames, lengths = batch_of([4]), torch.tensor([4])
    turned = frames.flip(1)
    mean, concat = made(4), made(4, projection="concat")
    torch.testing.assert_close(mean(frames, lengths).tokens, mean(turned, lengths).tokens)
    assert not torch.allclose(concat(frames, lengths).tokens, concat(turned, lengths).tokens, atol=0.01)


def test_the_gradient_is_that_of_differences():
    adapter = made(3, match_embedding_norm=False).double()  # the norm computes in float32
    frames = batch_of([7, 4]).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: adapter(x, torch.tensor([7, 4])).tokens[0], frames)


def test_the_tokens_start_at_the_scale_of_the_embeddings():
    adapter = made(2, match_embedding_norm=False)
    tokens = adapter(torch.randn(1, 400, C), torch.tensor([400])).tokens.detach()
    assert 0.03 < float(tokens.pow(2).mean().sqrt()) < 0.3


@pytest.mark.parametrize(("options", "message"), [
    ({"size": 0}, "adapter_options: size: 0 is below 1"),
    ({"projection": "sum"}, "adapter_options: projection: 'sum' is not one of mean, concat"),
    ({"sizes": 4}, "adapter_options: unknown key 'sizes'; did you mean 'size'"),
])
def test_wrong_options_are_said_before_a_model_is_loaded(options, message):
    config = TrainConfig(model=ModelConfig(adapter="group", adapter_options=options), loss=LossConfig(w_input=0))
    with pytest.raises(ConfigError, match=message):
        resolved(config)


def test_a_model_of_groups_is_saved_and_loaded(tiny_llm, tiny_encoder, tmp_path):
    config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, adapter="group", adapter_options={"size": 4},
                         pad_to_30s=False)
    model = SpeechLlm.from_config(config, PromptConfig("Continue:"))
    model.save_pretrained(tmp_path / "model")
    again = SpeechLlm.from_pretrained(tmp_path / "model")
    frames, lengths = torch.randn(2, 9, 24), torch.tensor([9, 9])
    assert torch.equal(again.adapt(frames, lengths).tokens, model.adapt(frames, lengths).tokens)
    assert again.config.adapter_options == {"size": 4, "projection": "mean", "match_embedding_norm": True}
