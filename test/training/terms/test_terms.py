"""The seams of the loss and of the adapters: what fits what, and one of each added from outside."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from blspkd.bin import decode, score, train
from blspkd.config import LossConfig, ModelConfig, PromptConfig, TrainConfig
from blspkd.errors import ConfigError, ModelError
from blspkd.models.adapters import ADAPTERS, Adapter, adapter_gives
from blspkd.models.speech_llm import SpeechLlm
from blspkd.models.speech_tokens import SpeechTokens
from blspkd.training.objective import KdObjective
from blspkd.training.run import resolved
from blspkd.training.terms import TERMS, resolved_terms, term_options
from blspkd.training.terms.contrast import Contrast
from blspkd.training.terms.quantity import Quantity
from blspkd.training.terms.term import Term, TermSums

COUNTER = {"count": "ctc", "ctc_classes": 7}


@pytest.mark.parametrize("model, loss, message", [
    ({"adapter": "conf"}, {}, "model: adapter: there is no 'conf'; did you mean 'conv'"),
    ({"adapter_options": {"haeds": 2}}, {}, "adapter_options: unknown key 'haeds'; did you mean 'heads'"),
    ({"adapter_options": {"count": "beta"}}, {}, "count: 'beta' is not one of alpha, ctc"),
    ({"adapter_options": {"heads": 0}}, {}, "adapter_options: heads: 0 is below 1"),
    ({"adapter_options": {"ctc_classes": -3}}, {}, "ctc_classes: -3 is below 0"),
    ({"adapter": "conv", "adapter_options": {"layers": -1}}, {"w_input": 0}, "layers: -1 is below 0"),
    ({"adapter_options": {"count": "ctc"}}, {}, "needs the counter that ctc_classes makes"),
    ({"adapter": "conv", "adapter_options": {"heads": 2}}, {"w_input": 0}, "unknown key 'heads'"),
    ({"adapter": "conv"}, {}, "w_input: needs as many speech tokens as text tokens, which adapter 'conv' does not"),
    ({"adapter": "conv", "snap": "hard"}, {"w_input": 0}, "model: snap: hard: the tokens of adapter 'conv' stand"),
    ({"adapter": "conv", "recount": 1}, {"w_input": 0}, "model: recount: 1: adapter 'conv' does not count text tokens"),
    ({"recount": 1, "recount_by": "llm"}, {}, "model: recount_by: llm: recount_weight 4.0 is that of a token counter"),
    ({"adapter": "conv"}, {"w_input": 0, "terms": {"embedding": {}}}, "embedding: needs 'aligned', which adapter"),
    ({"adapter": "conv"}, {"w_input": 0, "terms": {"quantity": {}}}, "quantity: needs 'alpha'"),
    ({}, {"terms": {"contrast": {"temperature": -1}}}, "temperature: -1.0 is not a positive number"),
    ({}, {"terms": {"ctc": {}}}, "ctc: needs 'ctc', which adapter 'cformer' with these adapter_options"),
    ({"adapter_options": COUNTER}, {}, "no term of the loss trains it"),
    ({"adapter_options": COUNTER}, {"terms": {"ctc": {"weight": 0}}}, "no term of the loss trains it"),
    ({}, {"terms": {"qantity": {}}}, "there is no 'qantity'; did you mean 'quantity'"),
    ({}, {"terms": {"quantity": {"wieght": 1}}}, "unknown key 'wieght'; did you mean 'weight'"),
])
def test_what_does_not_fit_is_said_before_any_model_is_loaded(model, loss, message):
    config = TrainConfig(model=ModelConfig(**model), loss=LossConfig(**loss))
    with pytest.raises(ConfigError) as error:
        resolved(config, "train.yaml")
    assert message in str(error.value) and str(error.value).startswith("train.yaml: ")


def test_quantity_is_there_wherever_there_is_alpha_and_terms_keep_their_order():
    model = ModelConfig(adapter_options=COUNTER)
    loss = LossConfig(terms={"ctc": {"weight": 0.3}, "embedding": {}})
    assert list(term_options(loss, model)) == ["quantity", "embedding", "ctc"]
    assert resolved_terms(loss, model)["quantity"] == {"weight": 1.0}
    without = LossConfig(terms={"quantity": {"weight": 0}})
    assert not term_options(without, ModelConfig()) and resolved_terms(without, ModelConfig())
    assert not term_options(LossConfig(w_input=0), ModelConfig(adapter="conv"))


def test_resolving_twice_changes_nothing():
    config = resolved(TrainConfig(model=ModelConfig(adapter_options=COUNTER),
                                  loss=LossConfig(terms={"ctc": {}, "embedding": {"weight": 0}})))
    assert resolved(config) == config and config.model.adapter_options["heads"] == 8


class MeanPool(Adapter):
    """An aligned adapter from outside: every token is the mean of all frames, plus a vector for its place."""

    @dataclass
    class Options:
        places: int = 64

    @classmethod
    def gives(cls, options):
        return frozenset({"aligned"})

    def __init__(self, options, sides):
        super().__init__(options, sides)
        self.to_llm = nn.Linear(sides.encoder_width, sides.llm_width)
        self.place = nn.Embedding(options.places, sides.llm_width)

    def forward(self, frames, lengths, n_tokens=None):
        predicted = (lengths // 8).clamp(min=1)
        n_tokens = predicted if n_tokens is None else n_tokens
        places = torch.arange(int(n_tokens.max()), device=frames.device)
        return SpeechTokens(self.to_llm(frames.mean(1))[:, None] + self.place(places), n_tokens, predicted)


class Centre(Term):
    """A term from outside with a weight tensor of its own: speech tokens near a learnt centre."""

    unit = "input"
    needs = frozenset({"aligned"})
    reports = ("centre_norm",)

    @dataclass
    class Options(Term.Options):
        scale: float = 1.0

    def __init__(self, options, model):
        super().__init__(options, model)
        self.scale = options.scale
        self.centre = nn.Parameter(torch.zeros(model.causal_lm.get_input_embeddings().embedding_dim))

    def forward(self, step):
        rows = step.speech.rows()
        return TermSums(self.scale * (rows - self.centre).pow(2).mean(1).sum(),
                        (self.centre.norm() * len(rows),))


def test_a_term_says_what_it_needs_to_be_one(monkeypatch, tiny_llm, tiny_encoder):
    with pytest.raises(TypeError, match="Centre.Options: derive them from Term.Options"):
        type("Centre", (Term,), {"Options": dataclass(type("Options", (), {}))})
    monkeypatch.setitem(TERMS, "input_kl", Quantity)
    config = TrainConfig(model=ModelConfig(tiny_llm, tiny_encoder), loss=LossConfig(terms={"input_kl": {}}))
    with pytest.raises(ConfigError, match="loss: terms: input_kl: 'input_kl' is logged by another part"):
        KdObjective(SpeechLlm.from_config(config.model, PromptConfig()), config.loss)


def test_an_adapter_and_a_term_from_outside_train_resume_decode_and_score(data_dir, tiny_llm, tiny_encoder, tmp_path,
                                                                          monkeypatch, capsys):
    """One new file and one line in a dict each; nothing else knows them."""
    monkeypatch.setitem(ADAPTERS, "mean_pool", MeanPool)
    monkeypatch.setitem(TERMS, "centre", Centre)
    assert adapter_gives(ModelConfig(adapter="mean_pool")) == {"aligned"}
    options = ["--llm", tiny_llm, "--speech_encoder", tiny_encoder, "--train_dir", data_dir, "--valid_dir", data_dir,
               "--adapter", "mean_pool", "--adapter_options.places", "99", "--terms.centre.weight", "0.5",
               "--pad_to_30s", "false", "--attn_implementation", "eager", "--batch_utterances", "4", "--num_workers",
               "0", "--warmup_steps", "1", "--save_steps", "2", "--log_steps", "1", "--learning_rate", "1e-2"]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train.main([*options, "--output_dir", str(whole), "--max_steps", "4"])
    log = [json.loads((whole / "checkpoint-4/trainer_state.json").read_text())["log_history"]][0]
    assert {"input_kl", "centre", "centre_norm", "count_accuracy"} <= {key for line in log for key in line}
    assert log[-1].get("centre_norm", log[-2].get("centre_norm")) > 0 and "quantity" not in log[0]

    centre = [load_file(whole / f"checkpoint-{step}/terms.safetensors")["centre.centre"] for step in (2, 4)]
    assert centre[0].abs().sum() > 0 and not torch.equal(*centre)
    final = load_file(whole / "model/terms.safetensors")["centre.centre"]
    assert torch.equal(final, centre[1])
    halves.mkdir()  # killed after step 2
    for name in ("config.yaml", "checkpoint-2"):
        (halves / name).symlink_to(whole / name)
    train.main([*options, "--output_dir", str(halves), "--max_steps", "4"])
    for file in ("adapter.safetensors", "terms.safetensors"):
        assert (halves / "model" / file).read_bytes() == (whole / "model" / file).read_bytes()

    weights = whole / "model/terms.safetensors"
    objective = KdObjective(SpeechLlm.from_pretrained(whole / "model"), LossConfig(terms={"centre": {}}))
    objective.load_trained(whole / "model")
    assert torch.equal(objective.terms["centre"].centre.data, final)
    for damage in (lambda: weights.write_bytes(b"?"), weights.unlink):
        damage()
        with pytest.raises(ModelError, match="terms.safetensors: the weights of the loss terms cannot be loaded"):
            objective.load_trained(whole / "model")

    capsys.readouterr()
    tasks = ["--tasks", "{repeat: {instruction: 'Repeat:', metrics: [wer]}}", "--systems", "[speech]"]
    decode.main(["--model_dir", str(whole / "model"), "--data_dir", data_dir, "--exp_dir", str(whole), *tasks,
                 "--max_new_tokens", "4"])
    score.main(["--exp_dir", str(whole), "--test_sets", "train", *tasks])
    rows = json.loads((whole / "results.json").read_text())
    assert {"wer", "count_accuracy"} <= {row["metric"] for row in rows}


def test_contrast_is_the_cross_entropy_of_a_choice_by_distance_among_the_batch_s_tokens():
    torch.manual_seed(0)
    table, ids = torch.randn(9, 5), torch.tensor([3, 7, 3, 1])
    tokens = torch.randn(4, 5, requires_grad=True)
    llm = SimpleNamespace(get_input_embeddings=lambda: table.__getitem__)
    model = SimpleNamespace(embedding_rms=0.7, causal_lm=llm)
    batch = SimpleNamespace(examples=[SimpleNamespace(input=part.numpy()) for part in ids.split([1, 3])])
    step = SimpleNamespace(batch=batch, input_ids=ids, model=model, speech=SimpleNamespace(rows=lambda: tokens))
    found = Contrast(Contrast.Options(temperature=0.3), model)(step)
    expected, right = 0.0, 0
    for token, own in zip(tokens.detach().double(), ids.tolist(), strict=True):
        scores = {other: -float((token - table[other].double()).pow(2).sum()) / (0.3 * 5 * 0.7**2)
                  for other in (1, 3, 7)}
        expected -= scores[own] - torch.tensor(list(scores.values())).logsumexp(0).item()
        right += max(scores, key=scores.get) == own
    assert found.loss.item() == pytest.approx(expected, rel=1e-4) and found.details[0] == right
    found.loss.backward()
    assert tokens.grad.abs().sum() > 0
    with pytest.raises(ConfigError, match="temperature: 0 is not a positive number"):
        Contrast.Options(temperature=0)
