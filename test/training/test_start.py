"""A training that starts from a trained model has its weights before the first step, and goes on by itself."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from blspkd.config import ModelConfig, PromptConfig
from blspkd.errors import ConfigError, ModelError
from blspkd.models.speech_llm import SpeechLlm
from blspkd.training.start import freeze, start_from

OPTIONS = {"heads": 2, "ffn_dim": 32, "num_pre_cif_layers": 1, "num_post_cif_layers": 1}
SMALL = {"adapter_options": OPTIONS, "pad_to_30s": False, "attn_implementation": "eager"}


def assert_same(left, right):
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def weights(folder):
    return {f"{path.name}:{name}": value for path in folder.rglob("*.safetensors")
            for name, value in load_file(path).items()}


@pytest.fixture
def build(tiny_llm, tiny_encoder):
    def build_(seed=0, **model):
        torch.manual_seed(seed)
        config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, **{**SMALL, **model})
        built = SpeechLlm.from_config(config, PromptConfig("Continue:"))
        with torch.no_grad():
            for parameter in built.parameters():
                if parameter.requires_grad:
                    parameter.normal_()
        return built
    return build_


def test_weights_before_the_first_step_are_those_of_the_other_model(build, tmp_path):
    everything = {"plora_rank": 2, "train_encoder": True}
    build(1, **everything).save_pretrained(tmp_path / "model")
    model = build(2, **everything)
    start_from(tmp_path / "model", model)
    model.save_pretrained(tmp_path / "copy")
    assert_same(weights(tmp_path / "copy"), weights(tmp_path / "model"))


def test_what_only_one_of_the_models_trains_stays_as_it_is(build, tmp_path, caplog):
    build(1, plora_rank=2, train_encoder=True).save_pretrained(tmp_path / "model")
    alone = build(2)
    encoder = {name: value.clone() for name, value in alone.encoder.state_dict().items()}
    start_from(tmp_path / "model", alone)
    assert_same(alone.adapter.state_dict(), load_file(tmp_path / "model/adapter.safetensors"))
    assert_same(alone.encoder.state_dict(), encoder)
    assert "its trained PLoRA is left out" in caplog.text and "its trained speech encoder is left out" in caplog.text
    more = build(3, plora_rank=4, train_encoder=True, train_encoder_layers=1)
    alone.save_pretrained(tmp_path / "adapter")
    start_from(tmp_path / "adapter", more)
    assert_same(more.adapter.state_dict(), alone.adapter.state_dict())


def test_of_the_encoder_the_layers_that_both_train_are_taken(build, tmp_path):
    build(1, train_encoder=True).save_pretrained(tmp_path / "model")
    stored = load_file(tmp_path / "model/speech_encoder.safetensors")
    model = build(2, train_encoder=True, train_encoder_layers=1)
    start_from(tmp_path / "model", model)
    for name, value in model.encoder.named_parameters():
        if name in stored:
            assert torch.equal(value, stored[name]) == value.requires_grad, name


@pytest.mark.parametrize(("theirs", "ours", "message"), [
    ({}, {"adapter": "conv", "adapter_options": {"bottleneck": 16}},
     r"model \(adapter cformer .*this training \(adapter conv "),
    ({}, {"adapter_options": OPTIONS | {"ffn_dim": 48}}, "ffn_dim was 32 and is now 48"),
    ({}, {"adapter_options": OPTIONS | {"heads": 4}}, "heads was 2 and is now 4"),
    ({}, {"adapter_options": OPTIONS | {"num_post_cif_layers": 2}}, "num_post_cif_layers was 1 and is now 2"),
    ({"plora_rank": 2}, {"plora_rank": 4}, r"PLoRA: \S+ was .*2.* and is now .*4"),
    ({"plora_rank": 2}, {"plora_rank": 2, "plora_alpha": 1.0}, "plora_alpha was 32.0 and is now 1.0"),
])
def test_another_adapter_or_width_is_refused_and_nothing_is_loaded(build, tmp_path, theirs, ours, message):
    build(1, **theirs).save_pretrained(tmp_path / "model")
    model = build(2, **ours)
    before = {name: value.clone() for name, value in model.adapter.state_dict().items()}
    with pytest.raises(ModelError, match=message) as error:
        start_from(tmp_path / "model", model)
    assert str(error.value).count("adapter ") >= 2
    assert_same(model.adapter.state_dict(), before)


def test_another_width_of_the_llm_is_refused(build, tiny_llm, tmp_path):
    build(1).save_pretrained(tmp_path / "model")
    stored = load_file(tmp_path / "model/adapter.safetensors")
    narrow = {name: value[..., :16].contiguous() if 32 in value.shape else value for name, value in stored.items()}
    save_file(narrow, tmp_path / "model/adapter.safetensors")
    with pytest.raises(ModelError, match="was .*16.* and is now .*32"):
        start_from(tmp_path / "model", build(2))


def test_no_model_or_a_damaged_one_is_named(build, tmp_path):
    with pytest.raises(ModelError, match="init_from: .*nowhere: there is no trained model here"):
        start_from(tmp_path / "nowhere", build())
    build().save_pretrained(tmp_path / "model")
    (tmp_path / "model/adapter.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match=r"adapter\.safetensors: cannot be read"):
        start_from(tmp_path / "model", build())


def test_what_is_frozen_is_not_trained(build):
    model = build(1, plora_rank=2)
    freeze(model, ["adapter.pre_cif", "adapter.to_alpha"])
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert not [name for name in trained if name.startswith(("adapter.pre_cif", "adapter.to_alpha"))]
    assert {"adapter.to_llm.weight", "adapter.to_frames.weight"} <= trained
    assert any("lora_A" in name for name in trained)


@pytest.mark.parametrize(("prefixes", "message"), [
    (["adapter.pre_ciff"], "freeze_param: 'adapter.pre_ciff': no parameter of the adapter begins like this"),
    (["encoder.layers"], "freeze_param: 'encoder.layers': no parameter of the adapter begins like this"),
    ([1], "freeze_param: '1': no parameter"),
    (["adapter."], "freeze_param: nothing is left to train"),
])
def test_what_cannot_be_frozen(build, prefixes, message):
    model = build(1)
    before = [value.requires_grad for value in model.parameters()]
    with pytest.raises(ConfigError, match=message):
        freeze(model, prefixes)
    assert [value.requires_grad for value in model.parameters()] == before
