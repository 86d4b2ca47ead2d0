"""Steps with another number of speech tokens than the transcripts have."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from blspkd.bin.train import main
from blspkd.config import DataConfig, LossConfig, ModelConfig, PromptConfig, TrainConfig
from blspkd.data.batching import collate
from blspkd.data.examples import ExampleDataset, make_examples
from blspkd.data.features import FeatureExtractor
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.errors import ConfigError
from blspkd.kaldi.data_dir import KaldiDir, read_continuations
from blspkd.models.speech_llm import SpeechLlm
from blspkd.training.objective import Denominators, KdObjective
from blspkd.training.own_length import OwnLength
from blspkd.training.run import resolved

ADAPTER = {"heads": 2, "ffn_dim": 32, "num_pre_cif_layers": 1, "num_post_cif_layers": 1, "ctc_classes": 7}
TERMS = {"embedding": {"weight": 3.0}, "ctc": {"weight": 0.3}}


@pytest.fixture
def objective(tiny_llm, tiny_encoder):
    def build(seed=0, options=None, **loss):
        torch.manual_seed(0)
        config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, pad_to_30s=False, attn_implementation="eager",
                             adapter_options=ADAPTER | (options or {}), plora_rank=2)
        loss = LossConfig(**{"terms": TERMS, **loss})
        return KdObjective(SpeechLlm.from_config(config, PromptConfig("Continue:")), loss, seed)
    return build


@pytest.fixture
def batch_of(data_dir, tiny_llm, tiny_encoder):
    prompt = Prompt(load_tokenizer(tiny_llm), PromptConfig("Continue:"))
    items = make_examples(KaldiDir.read(data_dir), read_continuations(f"{data_dir}/continuation"), prompt,
                          DataConfig()).examples
    dataset = ExampleDataset(items, FeatureExtractor(tiny_encoder, False), DataConfig(), 0, augment=False)
    return lambda *indices: collate([dataset[(0, i)] for i in indices])


def learnt(model, *batches, step=0, counts=None):
    """Loss, sums and gradients of one optimiser step."""
    counts = counts or Denominators.of(list(batches))
    results = [model(batch, counts, step) for batch in batches]
    sum(result.loss for result in results).backward()
    return [sum(result.loss for result in results).detach(), sum(result.sums for result in results),
            *[p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]]


def assert_same(found, expected, **tolerance):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **(tolerance or {"rtol": 0, "atol": 0}))


def test_a_share_of_0_is_the_base_bit_for_bit(objective, batch_of):
    batch = batch_of(0, 1, 2)
    assert_same(learnt(objective(own_length=0.0), batch), learnt(objective(), batch, step=None))


@pytest.mark.parametrize("cached", [False, True])
def test_with_a_perfect_counter_it_is_the_base_without_input_kl(objective, batch_of, monkeypatch, cached):
    """And without the terms that compare token by token; also where the teacher's states come from a cache."""
    batch = batch_of(0, 1, 2, 3)
    monkeypatch.setattr("blspkd.models.adapters.cformer.CFormer._count", lambda *_: batch.n_tokens)
    if cached:
        llm = objective().speech_llm
        states = llm.teacher_states(batch.sequences).flatten(0, 1)
        batch.teacher = states[batch.sequences.positions(shifted=True, with_input=True)]
    own, base = objective(own_length=1.0), objective(w_input=0.0, terms={"ctc": TERMS["ctc"]})
    found, expected = learnt(own, batch), learnt(base, batch)
    sums = dict(zip(own.units, found.pop(1).tolist(), strict=True))
    wanted = dict(zip(base.units, expected.pop(1).tolist(), strict=True))
    assert sums.pop("embedding") == 0 and sums == wanted and wanted["response_kl"] > 0
    assert_same(found, expected)


def test_it_learns_from_the_response_with_a_number_of_its_own(objective, batch_of):
    """As a layout says that has as many input positions; a step that is not drawn has all of the base's loss."""
    model, batch = objective(own_length=1.0), batch_of(0, 1, 2)
    loss, sums, *_ = learnt(model, batch)
    llm = model.speech_llm
    speech = llm.adapt(*llm.encode(batch.features, batch.feature_lengths, batch.windows))
    assert speech.n_tokens.tolist() != batch.n_tokens.tolist()
    sequences = llm.student_sequences(batch, speech)
    assert sequences.input_mask.sum(1).tolist() == speech.n_tokens.tolist()
    states = llm.student_states(sequences, speech).flatten(0, 1)[sequences.positions(True, False)]
    teacher = llm.teacher_states(batch.sequences).flatten(0, 1)[batch.sequences.positions(True, False)]
    logits = [torch.nn.functional.linear(x, llm.head[0]).div(2.0).log_softmax(-1) for x in (teacher, states)]
    kl = (logits[0].exp() * (logits[0] - logits[1])).sum(-1)
    named = dict(zip(model.units, sums.tolist(), strict=True))
    assert named["response_kl"] == pytest.approx(float(kl.sum().detach()), rel=1e-4)
    assert named["input_kl"] == named["embedding"] == 0 < named["quantity"]
    assert_same(learnt(objective(own_length=1.0), batch, step=None), learnt(objective(), batch, step=None))


@pytest.mark.parametrize("source", ["adapter", "shift"])
def test_micro_batches_add_up(objective, batch_of, source):
    whole, parts = [batch_of(0, 1, 2, 3, 4, 5)], [batch_of(0, 1), batch_of(2), batch_of(3, 4, 5)]
    one, many = (learnt(objective(own_length=1.0, own_length_by=source), *batches) for batches in (whole, parts))
    assert_same(many, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"scaling": "local"}, {"text_residual": "posterior", "ctc_classes": 400}])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_adapters_that_read_more_train_too(objective, batch_of, options, share):
    """With the transcripts' ids, and in steps that know no transcript; micro-batches add up."""
    parts = [batch_of(0, 1), batch_of(2), batch_of(3, 4, 5)]
    one, many = objective(options=options, own_length=share), objective(options=options, own_length=share)
    seen = []
    adapt = one.speech_llm.adapter.forward
    one.speech_llm.adapter.forward = lambda *args, **named: seen.append(named) or adapt(*args, **named)
    assert_same(learnt(many, *parts), learnt(one, batch_of(0, 1, 2, 3, 4, 5)), rtol=1e-3, atol=1e-4)
    [named] = seen
    assert named.keys() == ({"ids"} if "scaling" in options else {"embeddings"})
    assert "ids" not in named or (named["ids"] is None) == bool(share)
    assert all(weight.grad is not None for weight in one.speech_llm.adapter.parameters())


def test_steps_are_drawn_by_seed_and_number(batch_of):
    drawn = [OwnLength(0.25, "adapter", 3).drawn(step) for step in range(4000)]
    assert abs(sum(drawn) - 1000) < 3 * math.sqrt(4000 * 0.25 * 0.75)
    assert drawn == [OwnLength(0.25, "shift", 3).drawn(step) for step in range(4000)]
    assert drawn != [OwnLength(0.25, "adapter", 4).drawn(step) for step in range(4000)]
    assert all(OwnLength(1.0, "adapter", 0).drawn(step) for step in range(50))
    assert not OwnLength(1.0, "adapter", 0).drawn(None)


def test_the_control_has_a_token_more_or_fewer_whatever_the_batch(batch_of):
    numbers, changes = OwnLength(1.0, "shift", 0), set()
    for step in range(8):
        alone = [int(numbers.of(batch_of(i), step).n_tokens) for i in range(6)]
        batch = batch_of(*range(6))
        together = numbers.of(batch, step).n_tokens
        assert together.tolist() == alone
        changes |= set((together - batch.n_tokens).tolist())
    assert changes == {-1, 1}
    batch.n_tokens[:] = 1
    assert set(numbers.of(batch, 0).n_tokens.tolist()) == {2}  # never none


def test_a_run_logs_what_it_computes_resumes_bit_for_bit_and_reads_the_teacher_s_cache(
        data_dir, tiny_llm, tiny_encoder, tmp_path):
    def train(name, *extra):
        main(["--llm", tiny_llm, "--speech_encoder", tiny_encoder, "--train_dir", data_dir, "--valid_dir", data_dir,
              "--output_dir", str(tmp_path / name), "--pad_to_30s", "false", "--adapter_options", json.dumps(ADAPTER),
              "--loss.terms", json.dumps(TERMS), "--warmup_steps", "1", "--batch_utterances", "4", "--num_workers", "0",
              "--save_steps", "2", "--keep_checkpoints", "9", "--log_steps", "1", "--max_steps", "6", *extra])
        rows = json.loads((tmp_path / name / "checkpoint-6/trainer_state.json").read_text())["log_history"]
        return [{key: value for key, value in row.items() if not key.startswith("time_") and "per_second" not in key}
                for row in rows if "loss" in row]

    def weights(name):
        return load_file(Path(tmp_path / name / "model/adapter.safetensors"))

    half = train("half", "--own_length", "0.5")
    drawn = [OwnLength(0.5, "adapter", 0).drawn(step) for step in range(6)]
    assert 0 < sum(drawn) < 6
    assert [not {"input_kl", "embedding"} & row.keys() for row in half] == drawn
    assert all({"response_kl", "quantity", "ctc", "count_accuracy"} <= row.keys() for row in half)
    cached = train("cached", "--own_length", "0.5", "--cache_teacher", "true")
    for row, other in zip(half, cached, strict=True):
        assert other == pytest.approx(row, rel=1e-3, abs=1e-4)
    before = weights("half")
    for left in ("model", "checkpoint-6", "checkpoint-4"):
        shutil.rmtree(tmp_path / "half" / left)
    train("half", "--own_length", "0.5")
    assert all(torch.equal(value, before[name]) for name, value in weights("half").items())


@pytest.mark.parametrize("loss, model, message", [
    ({"own_length": 1.5}, {}, "own_length: 1.5 is not a share from 0 to 1"),
    ({"own_length": 0.5, "w_response": 0.0}, {}, "own_length: such a step learns from the response alone"),
    ({"own_length": 0.5, "w_input": 0.0}, {"adapter": "conv"}, "own_length: 0.5: adapter 'conv' always has a number"),
])
def test_what_cannot_be_is_said_beforehand(loss, model, message):
    with pytest.raises(ConfigError, match=message):
        resolved(TrainConfig(model=ModelConfig(**model), loss=LossConfig(**loss)))


def test_an_alignment_has_no_such_steps():
    from blspkd.training.phases import alignment_of
    config = TrainConfig(loss=LossConfig(own_length=0.5), align={"loss": {"terms": {"embedding": {}}}})
    assert alignment_of(config).loss.own_length == 0
