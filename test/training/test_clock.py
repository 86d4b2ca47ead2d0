"""A training says where its time goes, and no micro-batch waits for the device."""

import json
import logging
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from blspkd.bin.train import main
from blspkd.config import DataConfig, LossConfig, ModelConfig, PromptConfig
from blspkd.data.batching import collate
from blspkd.data.examples import ExampleDataset, make_examples
from blspkd.data.features import FeatureExtractor
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.kaldi.data_dir import KaldiDir, read_continuations
from blspkd.models.speech_llm import SpeechLlm
from blspkd.training import clock as clocks
from blspkd.training.clock import PARTS, Clock, readable
from blspkd.training.objective import Denominators, KdObjective
from blspkd.training.trainer import KdTrainer

SMALL = {"heads": 2, "ffn_dim": 32, "num_pre_cif_layers": 1, "num_post_cif_layers": 1}
CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture
def batch_of(data_dir, tiny_llm, tiny_encoder):
    prompt = Prompt(load_tokenizer(tiny_llm), PromptConfig("Continue:"))
    examples = make_examples(KaldiDir.read(data_dir), read_continuations(f"{data_dir}/continuation"), prompt,
                             DataConfig()).examples

    def build(pad_to_30s=False, count=4):
        dataset = ExampleDataset(examples, FeatureExtractor(tiny_encoder, pad_to_30s), DataConfig(), 0, augment=False)
        return collate([dataset[(0, i)] for i in range(count)])
    return build


@pytest.fixture
def ticks(monkeypatch):
    """A clock that is told the time."""
    now = SimpleNamespace(time=0.0)
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: now.time)
    return now


def test_every_moment_has_one_part(ticks, batch_of):
    clock, batch = Clock(CPU), batch_of()
    for _ in range(2):  # steps
        for part, seconds in ("data", 1.0), ("forward", 2.0), ("backward", 4.0), ("other", 0.5):
            clock.enter(part)
            if part == "backward":
                clock.messages += [(ticks.time + 1, ticks.time + 2), (ticks.time + 1.5, ticks.time + 3)]  # overlap
            ticks.time += seconds
        clock.count(batch)
        clock.steps += 1
    clock.enter("validation")
    ticks.time += 10
    clock.enter("checkpoint")
    ticks.time += 6
    clock.enter("other")
    logs = clock.report()
    assert {name: logs[f"time_{name}"] for name in (*PARTS, "communication")} == {
        "data": 1, "forward": 2, "backward": 4, "validation": 5, "checkpoint": 3, "other": 0.5, "communication": 2}
    positions, wall = int(batch.sequences.lengths.sum()), 31
    assert logs["tokens_per_second"] == pytest.approx(2 * positions / wall)
    assert logs["audio_seconds_per_second"] == pytest.approx(2 * sum(e.duration for e in batch.examples) / wall)
    assert logs["padding"] == pytest.approx(100 * (1 - positions / batch.sequences.ids.numel())) and logs["padding"] > 0
    assert "data 1  forward 2  backward 4" in readable(logs)

    clock.enter("data")
    ticks.time += 3
    clock.steps += 1
    assert clock.report()["time_data"] == 3  # what was reported is over


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpus_time_is_its_own():
    clock = Clock(torch.device("cuda"))
    x = torch.randn(4096, 4096, device="cuda")
    clock.enter("forward")
    for _ in range(20):
        x = x @ x * 1e-3
    clock.enter("other")
    clock.steps = 1
    assert clock.report()["time_forward"] > 1e-3


@pytest.mark.parametrize("pad_to_30s", [False, True])
@pytest.mark.parametrize(("terms", "options"), [
    ({}, {}), ({"embedding": {"weight": 1.0}, "contrast": {"weight": 1.0}}, {}), ({}, {"plora_rank": 2}),
    ({}, {"plora_rank": 2, "share_prefix": False})])
def test_a_micro_batch_waits_for_nothing(pad_to_30s, terms, options, batch_of, tiny_llm, tiny_encoder, monkeypatch):
    """On `meta`, where no tensor has values, all that a program would wait for a GPU for is an error.

    What is on the CPU (lengths, masks) is there with its values. Terms with CTC are not among them: `meta` has none.
    """
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # which does not know meta
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *args: False)
    config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, adapter_options=SMALL, pad_to_30s=pad_to_30s,
                         **options)
    loss = LossConfig(w_response_ce=0.5, terms=terms)
    objective = KdObjective(SpeechLlm.from_config(config, PromptConfig("Continue:")), loss).to(META).train()
    trainer = SimpleNamespace(args=SimpleNamespace(world_size=2), state=SimpleNamespace(global_step=0),
                              clock=Clock(CPU), _sums=torch.zeros(len(objective.units), device=META),
                              _lost=torch.zeros((), dtype=torch.bool, device=META))
    batch = batch_of(pad_to_30s)
    counts = Denominators.of([batch])
    for _ in range(2):
        KdTrainer.compute_loss(trainer, objective, batch.to(META), False, counts).backward()
    assert all(p.grad is not None for p in objective.speech_llm.adapter.parameters())


def test_meta_shows_what_waits(batch_of):
    """The test above can fail."""
    batch = batch_of().to(META)
    with pytest.raises(RuntimeError, match="nonzero"):
        batch.sequences.ids[batch.sequences.input_mask.to(META)]
    with pytest.raises(RuntimeError, match="item"):
        batch.features.sum().item()


class Reads(TorchDispatchMode):
    """How often the program reads a number that was computed with (integers are lengths, on the CPU everywhere)."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default and (args[0].is_floating_point()
                                                                   or args[0].dtype == torch.bool):
            type(self).count += 1
        return func(*args, **(kwargs or {}))


def train(data_dir, llm, encoder, output, *extra):
    main(["--llm", llm, "--speech_encoder", encoder, "--train_dir", data_dir, "--valid_dir", data_dir, "--output_dir",
          str(output), "--pad_to_30s", "false", "--adapter_options", json.dumps(SMALL), "--warmup_steps", "1",
          "--batch_utterances", "2", "--num_workers", "0", "--save_steps", "9", "--log_steps", "1", *extra])


@pytest.mark.parametrize("accumulation", [1, 3])
def test_one_number_is_read_in_a_step_whatever_its_micro_batches(accumulation, data_dir, tiny_llm, tiny_encoder,
                                                                 tmp_path, monkeypatch):
    step = KdTrainer.training_step

    def counted(*args, **kwargs):
        with Reads():
            return step(*args, **kwargs)

    monkeypatch.setattr(KdTrainer, "training_step", counted)
    monkeypatch.setattr(Reads, "count", 0)
    train(data_dir, tiny_llm, tiny_encoder, tmp_path / "a", "--max_steps", "2", "--gradient_accumulation",
          str(accumulation), "--plora_rank", "2")
    assert Reads.count == 2  # of two steps: whether a loss was not finite


def test_the_log_and_tensorboard_have_it(data_dir, tiny_llm, tiny_encoder, tmp_path, caplog):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    with caplog.at_level(logging.INFO):
        train(data_dir, tiny_llm, tiny_encoder, tmp_path / "a", "--max_steps", "2")
    assert caplog.text.count("seconds a step: data ") == 2
    events = EventAccumulator(str(tmp_path / "a/tensorboard")).Reload()
    for name in ("time_data", "time_forward", "time_backward", "tokens_per_second", "padding"):
        assert len(events.Scalars(f"train/{name}")) == 2


def test_checkpoints_have_a_part_of_their_own(data_dir, tiny_llm, tiny_encoder, tmp_path):
    train(data_dir, tiny_llm, tiny_encoder, tmp_path / "a", "--max_steps", "3", "--save_steps", "2")
    history = json.loads((tmp_path / "a/checkpoint-3/trainer_state.json").read_text())["log_history"]
    times = {row["step"]: row["time_checkpoint"] for row in history if "time_checkpoint" in row}
    assert times[1] == times[2] == 0 < times[3]  # written after step 2 and its line
