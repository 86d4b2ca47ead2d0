"""The token counter starts from a recogniser's own CTC head over the LLM's tokens."""

import json

import pytest
import torch
from safetensors.torch import save_file

from blspkd.config import ModelConfig, PromptConfig, TrainConfig
from blspkd.config_file import load_config
from blspkd.errors import ConfigError, ModelError
from blspkd.models.adapters.adapter import Sides
from blspkd.models.adapters.cformer import CFormer
from blspkd.models.speech_llm import SpeechLlm
from blspkd.training.phases import phases
from blspkd.training.start_counter import UNHEARD, start_counter

SMALL = {"num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2, "ffn_dim": 32}
TOKENS = [7, 3, 399, 20]


@pytest.fixture
def build(tiny_llm, tiny_encoder):
    def built(**options):
        torch.manual_seed(0)
        config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, pad_to_30s=False,
                             adapter_options={**SMALL, "ctc_classes": 400, "ctc_frames": "encoder", **options})
        return SpeechLlm.from_config(config, PromptConfig("Continue:"))
    return built


@pytest.fixture
def head(tmp_path, build):
    def saved(tokens=TOKENS, width=None, **tensors):
        size = len(tokens) + 1
        width = width or build().adapter.to_alpha.in_features
        given = {"weight": torch.randn(size, width), "bias": torch.randn(size), **tensors}
        save_file(given, tmp_path / "head.safetensors", metadata={"tokens": json.dumps(tokens)})
        return tmp_path / "head.safetensors", given
    return saved


def test_it_hears_what_the_recogniser_hears_before_the_first_step(build, head):
    path, given = head()
    model = build(text_residual="posterior", text_gate=0.5, acoustic_gate=0.25)
    frames, lengths = torch.randn(2, 12, given["weight"].shape[1]), torch.tensor([12, 9])
    frames[1, 9:] = 0
    start_counter(path, model)
    logits = model.adapt(frames, lengths, torch.tensor([3, 2])).ctc_logits
    theirs = frames @ given["weight"].T + given["bias"]
    classes = [0, *(token + 1 for token in TOKENS)]
    torch.testing.assert_close(logits[..., classes], theirs, rtol=1e-5, atol=1e-5)
    others = [number for number in range(401) if number not in classes]
    assert (logits[..., others] == UNHEARD).all()
    assert model.adapter.text.gate.item() == 0.5 and model.adapter.text.acoustic_gate.item() == 0.25


def test_the_counter_reads_the_encoder_s_frames_or_those_behind_the_layers(build):
    frames, lengths, n_tokens = torch.randn(1, 12, 64), torch.tensor([12]), torch.tensor([3])
    before, behind = build(), build(ctc_frames="pre_cif")
    frames = frames[..., :before.adapter.to_alpha.in_features]
    torch.testing.assert_close(before.adapt(frames, lengths, n_tokens).ctc_logits, before.adapter.counter(frames))
    left, right = (one.adapt(frames, lengths, n_tokens) for one in (before, behind))
    assert torch.equal(left.tokens, right.tokens)  # nothing else depends on it
    assert not torch.allclose(left.ctc_logits, right.ctc_logits)


def test_what_does_not_fit_is_said_in_one_message(build, head, tmp_path):
    path, given = head()
    with pytest.raises(ConfigError, match="is a head on the encoder's frames; set .* ctc_frames: encoder"):
        start_counter(path, build(ctc_frames="pre_cif"))
    with pytest.raises(ConfigError, match="ctc_classes 17 some stand for several of its 4 tokens; set ctc_classes to"):
        start_counter(path, build(ctc_classes=17))
    with pytest.raises(ModelError, match="holds no CTC head .*NotFound"):
        start_counter(tmp_path / "nowhere.safetensors", build())
    save_file(given, tmp_path / "bare.safetensors")
    with pytest.raises(ModelError, match="bare.safetensors: holds no CTC head"):
        start_counter(tmp_path / "bare.safetensors", build())
    path, _ = head(width=5)
    with pytest.raises(ModelError, match="its weight is 5 x 5, and 4 tokens and the blank on frames of .* need 5 x"):
        start_counter(path, build())
    path, _ = head(tokens=[1, 2, 99_999])
    with pytest.raises(ModelError, match="names token 99999, and the LLM has .* the tokens of another LLM"):
        start_counter(path, build())
    with pytest.raises(ConfigError, match="ctc_frames: encoder does not go together with stack_frames"):
        CFormer(CFormer.Options(**SMALL, ctc_classes=9, ctc_frames="encoder", stack_frames=2), Sides(24, 32, 0.1, 400))


def test_of_two_phases_the_first_starts_from_it(tmp_path):
    words = ["--training.init_ctc_head", "head.safetensors"]
    (tmp_path / "train.yaml").write_text("align: {loss: {terms: {quantity: {weight: 1}}}}\n")
    config = load_config(TrainConfig, tmp_path / "train.yaml", words)
    first, then = (phase for phase, _ in phases(config, tmp_path))
    assert first.training.init_ctc_head == "head.safetensors" and not then.training.init_ctc_head
    with pytest.raises(ConfigError, match="init_ctc_head: the model of init_from has a counter that"):
        load_config(TrainConfig, None, [*words, "--training.init_from", "exp/a/model"])
