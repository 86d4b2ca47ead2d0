"""Options of parallel training that have no effect, or do not go together, end in one message, before models load."""

import json
import logging

import pytest

from blspkd.bin.train import main
from blspkd.config import TrainConfig
from blspkd.config_file import load_config
from blspkd.errors import ConfigError
from blspkd.training import zero
from blspkd.training.parallel import check_parallel, runs_in_step
from blspkd.training.run import resolved

TWO = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
ZERO = {**dict.fromkeys(zero.AUTO, "auto"), "zero_optimization": {"stage": 2}}


def config_of(*options: str) -> TrainConfig:
    return resolved(load_config(TrainConfig, None, list(options)))


@pytest.fixture
def ds(tmp_path, monkeypatch):
    """Options with a file of DeepSpeed, of which some keys are other ones (None: not there)."""
    monkeypatch.setattr(zero.importlib.util, "find_spec", lambda name: name)

    def write(**changes) -> list[str]:
        values = {key: value for key, value in {**ZERO, **changes}.items() if value is not None}
        (tmp_path / "ds.json").write_text(json.dumps(values))
        return ["--deepspeed", str(tmp_path / "ds.json")]
    return write


@pytest.mark.parametrize(("options", "environment", "message"), [
    ([], {"ACCELERATE_USE_FSDP": "true"}, "ACCELERATE_USE_FSDP: .*set training.shard_llm"),
    ([], {"ACCELERATE_USE_FSDP": "1", "FSDP_VERSION": "2"}, "ACCELERATE_USE_FSDP"),
    ([], {"ACCELERATE_USE_DEEPSPEED": "true"}, "set training.deepspeed"),
    ([], {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "ACCELERATE_USE_PARALLELISM_CONFIG"),
    ([], {"ACCELERATE_DYNAMO_BACKEND": "inductor"}, "ACCELERATE_DYNAMO_BACKEND=inductor"),
    ([], {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4"),
    ([], {"ACCELERATE_MIXED_PRECISION": "bf16"}, "training.bf16 decides that, and it is false"),
    (["--bf16", "true"], {"ACCELERATE_MIXED_PRECISION": "fp16"}, "training.bf16 decides that, and it is true"),
    (["--shard_llm", "all"], {}, "there is one process"),
    (["--shard_llm", "node"], {}, "there is one process"),
    (["--shard_llm", "node"], {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}, "one process on this machine"),
    (["--shard_llm", "node"], {"WORLD_SIZE": "2"}, "one process on this machine"),
    (["--shard_llm", "node"], {"WORLD_SIZE": "5", "LOCAL_WORLD_SIZE": "3"}, "equally many; set it to all"),
    (["--shard_llm", "all", "--w_input", "0", "--w_response", "0", "--terms.embedding.weight", "1"], TWO,
     "the LLM never runs"),
    (["--shard_llm", "all", "--most_positions", "100"], TWO, "most_positions: does not go with shard_llm 'all'"),
    (["--shard_llm", "all", "--cache_teacher", "true"], TWO, "cache_teacher: does not go with shard_llm"),
    (["--shard_llm", "all", "--terms.match.weight", "1"], TWO, "terms: match: does not go with shard_llm 'all'"),
    (["--shard_llm", "all", "--terms.ot_align.weight", "1", "--terms.ot_align.layers", "1"], TWO, "terms: ot_align"),
    (["--deepspeed", "none.json"], TWO, r"none\.json: cannot be read .*conf/ds_zero2\.json"),
])
def test_it_is_refused(options, environment, message):
    with pytest.raises(ConfigError, match=message):
        check_parallel(config_of(*options), environment)


@pytest.mark.parametrize(("options", "environment"), [
    ([], {}), ([], TWO), (["--find_unused_parameters", "true"], TWO), (["--shard_llm", "node"], TWO),
    (["--shard_llm", "all"], {"WORLD_SIZE": "5", "LOCAL_WORLD_SIZE": "1"}),
    (["--shard_llm", "all", "--gradient_checkpointing", "true", "--cache_teacher", "auto"], TWO),
    (["--bf16", "true"], {"ACCELERATE_MIXED_PRECISION": "bf16"}),  # the Trainer's own, from a phase before
])
def test_it_is_taken(options, environment):
    check_parallel(config_of(*options), environment)


@pytest.mark.parametrize(("changes", "options", "message"), [
    ({"train_batch_size": 8}, [], 'train_batch_size: 8: .*set it to "auto"'),
    ({"train_micro_batch_size_per_gpu": 4}, [], "train_micro_batch_size_per_gpu: 4"),
    ({"gradient_accumulation_steps": 1}, [], "gradient_accumulation_steps: 1"),
    ({"gradient_clipping": None}, [], "gradient_clipping: not there"),
    ({"optimizer": {"type": "Adam"}}, [], "optimizer: parts have learning rates of their own; remove it"),
    ({"scheduler": {"type": "WarmupLR"}}, [], "scheduler: training.schedule decides"),
    ({"fp16": {"enabled": True}}, [], "fp16: enabled: true"),
    ({"bf16": {"enabled": True}}, [], "bf16: enabled: true: training.bf16 is false"),
    ({"bf16": {"enabled": False}}, ["--bf16", "true"], "bf16: enabled: false: training.bf16 is true"),
    ({"amp": {"enabled": True}}, [], "amp: enabled: true"),
    ({"zero_optimization": 3}, [], "is no configuration of DeepSpeed"),
    ({"bf16": True}, ["--bf16", "true"], "is no configuration of DeepSpeed"),
    ({"fp16": []}, [], "is no configuration of DeepSpeed"),
    ({"zero_optimization": {"stage": "3"}}, [], 'zero_optimization: stage: "3" is no number from 0 to 3'),
    ({"zero_optimization": {"stage": 7}}, [], "zero_optimization: stage: 7 is no number from 0 to 3"),
    ({"zero_optimization": {"stage": True}}, [], "zero_optimization: stage: true is no number from 0 to 3"),
    ({}, ["--shard_llm", "all"], "deepspeed: does not go with shard_llm 'all'"),
    ({}, ["--find_unused_parameters", "true"], "find_unused_parameters is DistributedDataParallel's"),
    ({"zero_optimization": {"stage": 3}}, ["--w_input", "0", "--w_response", "0", "--terms.embedding.weight", "1"],
     "the LLM, which ZeRO stage 3 splits, never runs"),
    ({"zero_optimization": {"stage": 3}}, ["--most_positions", "9"], "does not go with ZeRO stage 3"),
])
def test_deepspeed_is_refused(ds, changes, options, message):
    with pytest.raises(ConfigError, match=message):
        check_parallel(config_of(*ds(**changes), *options), TWO)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_deepspeed_is_taken(ds, stage):
    config = config_of(*ds(zero_optimization={"stage": stage}, bf16={"enabled": "auto"}), "--bf16", "true")
    check_parallel(config, TWO)
    assert runs_in_step(config.training) == (stage == 3)


def test_deepspeed_that_is_not_there_is_named(ds, monkeypatch):
    monkeypatch.setattr(zero.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="not installed; pip install deepspeed"):
        check_parallel(config_of(*ds()), TWO)


def test_deepspeed_of_a_process_that_no_launcher_has_started_is_refused(ds):
    """It would look for MPI, behind the models."""
    with pytest.raises(ConfigError, match="deepspeed: .* one process, .* start several, or one with torchrun"):
        check_parallel(config_of(*ds()), {})
    check_parallel(config_of(*ds()), {"RANK": "0", "WORLD_SIZE": "1"})


def test_unused_parameters_of_one_process_are_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        check_parallel(config_of("--find_unused_parameters", "true"), {})
    assert "find_unused_parameters: has no effect with one process" in caplog.text


def test_the_command_says_so_before_it_reads_anything(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--llm", "nowhere", "--speech_encoder", "nowhere", "--train_dir", "nowhere", "--valid_dir", "nowhere",
              "--output_dir", str(tmp_path / "run"), "--shard_llm", "all"])
    assert "shard_llm: all: there is one process" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [["--shard_llm", "all"], ["--deepspeed", "conf/ds_zero3.json"]])
def test_an_alignment_before_runs_no_llm_and_is_not_in_parts(tmp_path, options):
    from blspkd.training.phases import phases
    config = config_of(*options, "--align", "{loss: {terms: {embedding: {weight: 1}}}}")
    first, last = (phase for phase, _ in phases(config, tmp_path))
    assert (first.training.shard_llm, first.training.deepspeed) == ("none", "")
    assert (last.training.shard_llm, last.training.deepspeed) == (config.training.shard_llm, config.training.deepspeed)
