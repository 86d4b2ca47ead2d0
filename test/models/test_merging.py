"""Merged models: both ends are the models themselves, updates of the LLM are mixed as products, misfits are named."""

import json
import shutil

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from blspkd.bin.merge import main
from blspkd.config import ModelConfig, PromptConfig
from blspkd.errors import ConfigError, ModelError
from blspkd.models.chat import SpeechLLM
from blspkd.models.listener import Listener
from blspkd.models.merging import merge_models, mixed_lora, weighted_mean
from blspkd.models.plora import speech_positions
from blspkd.models.speech_llm import SpeechLlm

ADAPTER = {"heads": 2, "ffn_dim": 32, "num_pre_cif_layers": 1, "num_post_cif_layers": 1}


@pytest.fixture
def trained(tiny_llm, tiny_encoder, tmp_path):
    """trained(name, seed, **options): the folder of a model whose weights are all drawn, as if it had been trained."""
    def make(name: str, seed: int, **options):
        torch.manual_seed(seed)
        model = SpeechLlm.from_config(ModelConfig(**{
            "llm": tiny_llm, "speech_encoder": tiny_encoder, "adapter_options": ADAPTER, "pad_to_30s": False,
            "attn_implementation": "eager", "embedding_rms": 0.2, **options}), PromptConfig(f"Continue {name}:"))
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(tmp_path / name)
        return tmp_path / name
    return make


def computed(folder) -> list[torch.Tensor]:
    """Speech tokens and the student's states of two utterances, and the LLM's states of typed text."""
    model = SpeechLlm.from_pretrained(folder).eval()
    generator = torch.Generator().manual_seed(7)
    features, lengths = torch.randn(2, 60, 20, generator=generator), torch.tensor([60, 44])
    with torch.no_grad():
        speech = model.speech_tokens(features, lengths, [1, 1], torch.tensor([5, 4]))
        embeddings = torch.randn(2, 3, 32, generator=generator) * 0.2
        with speech_positions(torch.tensor([[True] * 5 + [False] * 3, [True] * 4 + [False] * 4])):
            states = model.causal_lm.base_model(inputs_embeds=torch.cat([speech.tokens, embeddings], 1))
        text = model.causal_lm.base_model(input_ids=torch.tensor([[5, 9, 30, 44]]))
    return [speech.tokens, states.last_hidden_state, text.last_hidden_state]


def updates(folder) -> dict[str, torch.Tensor]:
    """What (P)LoRA adds to each weight, in float64."""
    model = SpeechLlm.from_pretrained(folder)
    return {name: module.scaling["default"] * module.lora_B["default"].weight.detach().double()
            @ module.lora_A["default"].weight.detach().double()
            for name, module in model.llm.named_modules() if isinstance(module, LoraLayer)}


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


BOTH = {"plora_rank": 2, "train_encoder": True}


@pytest.mark.parametrize("positions", ["speech", "all"])
def test_both_ends_compute_what_the_models_compute_bit_for_bit(trained, tmp_path, positions):
    a = trained("a", 1, **BOTH, plora_positions=positions)
    b = trained("b", 2, plora_rank=3, plora_alpha=5.0, train_encoder=True, plora_positions=positions)
    for weights, own in (([1, 0], a), ([0, 1], b)):
        merge_models([a, b], weights, tmp_path / "merged")
        assert_equal(computed(tmp_path / "merged"), computed(own))
    assert "Continue b:" in (tmp_path / "merged/config.yaml").read_text()
    merge_models([a, b], [0.5, 0.5], tmp_path / "merged")
    assert not torch.equal(computed(tmp_path / "merged")[0], computed(a)[0])


def test_both_ends_towards_none(trained, tmp_path):
    a = trained("a", 1, **BOTH, plora_positions="all")
    merge_models([a, "none"], [1, 0], tmp_path / "whole")
    assert_equal(computed(tmp_path / "whole"), computed(a))
    merge_models(["none", a], [1, 0], tmp_path / "base")
    shutil.copytree(a, tmp_path / "plain")  # the same adapter between the base models as they are
    text = (a / "config.yaml").read_text()
    (tmp_path / "plain/config.yaml").write_text(text.replace("train_encoder: true", "train_encoder: false")
                                                .replace("plora_rank: 2", "plora_rank: 0"))
    assert_equal(computed(tmp_path / "base"), computed(tmp_path / "plain"))
    assert {path.name for path in (tmp_path / "base").iterdir()} == {"config.yaml", "config.json", "base_models.json",
                                                                     "adapter.safetensors"}


def test_every_part_of_plain_lora_is_that_part_of_its_update(trained, tmp_path):
    """alpha of Core-Cocktail: at 1 the bytes of the trained weights, at 0 none of them, else alpha times the update."""
    a = trained("a", 1, plora_rank=2, plora_positions="all")
    whole = updates(a)
    for alpha in 0, 0.25, 0.5, 0.75, 1:
        folder = tmp_path / f"merged{alpha}"
        merge_models([a, "none"], [alpha, 1 - alpha], folder)
        assert (folder / "adapter.safetensors").read_bytes() == (a / "adapter.safetensors").read_bytes()
        found = updates(folder)
        assert found.keys() == (whole.keys() if alpha else set())
        for name, update in found.items():
            torch.testing.assert_close(update, alpha * whole[name], rtol=1e-6, atol=1e-7)
    lora = "plora/adapter_model.safetensors"
    assert (tmp_path / "merged1" / lora).read_bytes() == (a / lora).read_bytes()


def test_updates_are_mixed_as_products_and_not_factor_by_factor(trained, tmp_path):
    a = trained("a", 1, plora_rank=2, plora_alpha=32.0)
    b = trained("b", 2, plora_rank=3, plora_alpha=5.0)
    merge_models([a, b], [0.3, 0.7], tmp_path / "merged")
    one, two, mixed = updates(a), updates(b), updates(tmp_path / "merged")
    assert mixed.keys() == one.keys() and mixed
    for name in mixed:
        expected = 0.3 * one[name] + 0.7 * two[name]
        torch.testing.assert_close(mixed[name], expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    config = json.loads((tmp_path / "merged/plora/adapter_config.json").read_text())
    assert config["r"] == 5 and config["lora_alpha"] / config["r"] == 16.0

    first, second = (load_file(folder / "plora/adapter_model.safetensors") for folder in (a, b))
    same_rank = {name: tensor[:2] if "lora_A" in name else tensor[:, :2] for name, tensor in second.items()}
    naive = weighted_mean([first, same_rank], [0.3, 0.7])
    right, _, _ = mixed_lora([first, same_rank], [2.0, 2.0], [0.3, 0.7])
    for name in first:
        if "lora_A" in name:
            behind = name.replace("lora_A", "lora_B")
            assert not torch.allclose(naive[behind] @ naive[name], right[behind] @ right[name], atol=1e-3)


def test_a_linear_layer_with_the_merged_update_is_the_mix_of_the_layers():
    """y = W x + sum_i a_i s_i B_i A_i x, in float64 from the formula."""
    generator = torch.Generator().manual_seed(0)
    w, x = (torch.randn(*shape, generator=generator) for shape in ((6, 4), (4, 9)))
    ranks, alphas, weights = [2, 3, 1], [32.0, 3.0, 7.0], [0.2, 0.5, 0.3]
    models = [{"x.lora_A.weight": torch.randn(rank, 4, generator=generator),
               "x.lora_B.weight": torch.randn(6, rank, generator=generator)} for rank in ranks]
    mixed, rank, alpha = mixed_lora(models, alphas, weights)
    assert rank == 6 and mixed["x.lora_A.weight"].shape == (6, 4) and mixed["x.lora_B.weight"].shape == (6, 6)
    y = w @ x + alpha / rank * mixed["x.lora_B.weight"] @ mixed["x.lora_A.weight"] @ x
    expected = w.double() @ x.double()
    for model, r, a, weight in zip(models, ranks, alphas, weights, strict=True):
        b, low = model["x.lora_B.weight"].double(), model["x.lora_A.weight"].double()
        expected += weight * a / r * b @ low @ x.double()
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-4)


def test_adapter_and_encoder_are_means_and_what_was_not_trained_is_the_base_s(trained, tmp_path, tiny_encoder):
    a = trained("a", 1, train_encoder=True)
    b = trained("b", 2, train_encoder=True, train_encoder_layers=1)
    merge_models([a, b, "none"], [0.5, 0.25, 0.25], tmp_path / "merged")
    base = SpeechLlm.from_pretrained(trained("c", 3)).encoder.state_dict()
    mixed = load_file(tmp_path / "merged/speech_encoder.safetensors")
    one, two = (load_file(folder / "speech_encoder.safetensors") for folder in (a, b))
    assert mixed.keys() == one.keys() > two.keys()
    for name in mixed:
        expected = 0.5 * one[name] + 0.25 * two.get(name, base[name]) + 0.25 * base[name]
        torch.testing.assert_close(mixed[name], expected, rtol=1e-6, atol=1e-7)
    adapter = [load_file(folder / "adapter.safetensors") for folder in (tmp_path / "merged", a, b)]
    for name in adapter[0]:
        torch.testing.assert_close(adapter[0][name], (2 * adapter[1][name] + adapter[2][name]) / 3, rtol=1e-6,
                                   atol=1e-7)


def test_a_merged_model_talks(trained, tmp_path):
    a, b = trained("a", 1, **BOTH), trained("b", 2, **BOTH)
    main(["--models", str(a), str(b), "--weights", ".5", ".5", "--output", str(tmp_path / "merged")])
    waveform = torch.randn(16000, generator=torch.Generator().manual_seed(1)).numpy() * 0.1
    reply = SpeechLLM.from_pretrained(tmp_path / "merged").chat(
        [{"role": "user", "content": [{"type": "audio", "audio": (16000, waveform)}]}], max_new_tokens=4)
    assert reply.speech_tokens > 0
    listener = Listener.from_pretrained(tmp_path / "merged")
    assert listener.generate_from_speech([waveform], ["Repeat:"])[0].n_tokens == reply.speech_tokens
    main(["--models", str(a), str(b), "--weights", "1", "0", "--output", str(tmp_path / "merged")])  # in its place


def change(folder):
    tensors = load_file(folder / "model.safetensors")
    next(iter(tensors.values())).flatten()[0] += 1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(("key", "what"), [("llm", "LLM"), ("speech_encoder", "speech encoder")])
def test_models_of_other_base_models_are_refused_and_both_are_named(trained, tmp_path, tiny_llm, tiny_encoder, key,
                                                                    what):
    copy = shutil.copytree({"llm": tiny_llm, "speech_encoder": tiny_encoder}[key], tmp_path / "base")
    a, b = trained("a", 1), trained("b", 2, **{key: str(copy)})
    merge_models([a, b], [0.5, 0.5], tmp_path / "merged")  # the same model at another place
    change(copy)
    c = trained("c", 2, **{key: str(copy)})
    for names in (a, c), (c, a):
        with pytest.raises(ModelError) as error:
            merge_models(names, [0.5, 0.5], tmp_path / "merged")
        assert f"the {what} is another one" in str(error.value)
        assert str(a) in str(error.value) and str(c) in str(error.value)
    for folder in (a, c):  # saved by an older version, which recorded nothing
        (folder / "base_models.json").unlink()
    with pytest.raises(ModelError, match=f"the {what} is another one"):
        merge_models([a, c], [0.5, 0.5], tmp_path / "merged")


@pytest.mark.parametrize(("first", "second", "message"), [
    ({}, {"adapter": "conv", "adapter_options": {}}, "adapter is cformer and conv"),
    ({}, {"adapter_options": {**ADAPTER, "ffn_dim": 48}}, "adapter_options.ffn_dim is 32 and 48"),
    ({"plora_rank": 2}, {"plora_rank": 2, "plora_positions": "all"}, "plora_positions is speech and all"),
    ({"plora_rank": 2, "plora_targets": "q_proj"}, {"plora_rank": 2, "plora_targets": "v_proj"},
     "q_proj.lora_A.weight is [32] and missing"),
    ({}, {"embedding_rms": 0.0}, "embedding_rms is 0.2 and 0.0"),
])
def test_models_of_another_kind_are_refused_and_both_are_named(trained, tmp_path, first, second, message):
    a, b = trained("a", 1, **first), trained("b", 2, **second)
    with pytest.raises(ModelError) as error:
        merge_models([a, b], [1, 0], tmp_path / "merged")
    assert message in str(error.value) and f"{a} (adapter" in str(error.value) and f"{b} (adapter" in str(error.value)
    assert not (tmp_path / "merged").exists()


def test_wrong_requests(trained, tmp_path):
    a, out = trained("a", 1), tmp_path / "merged"
    for names, weights, message in (
            ([a, "none"], [0.5], "1 for 2 models"), ([a, "none"], [0.5, 0.6], "add up to 1"),
            ([a, "none"], [1.5, -0.5], "numbers from 0 to 1"), ([a, "none"], [float("nan"), 1], "numbers from 0 to 1"),
            (["none"], [1], "name at least one trained model"), ([a, "none", "none"], [1, 0, 0], "at most once")):
        with pytest.raises(ConfigError, match=message):
            merge_models(names, weights, out)
    with pytest.raises(ConfigError, match="is one of the models to merge"):
        merge_models([a, "none"], [0.5, 0.5], a)
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="notes.txt, which would be lost"):
        merge_models([a, "none"], [0.5, 0.5], out)
    with pytest.raises(ModelError, match="no trained model here"):
        merge_models([tmp_path, "none"], [0.5, 0.5], tmp_path / "new")
    (a / "adapter.safetensors").write_bytes(b"?")
    with pytest.raises(ModelError, match="adapter.safetensors: cannot be read"):
        merge_models([a, "none"], [0.5, 0.5], tmp_path / "new")
