"""The vLLM engine: which GPUs a job's worker sees, what it is told, and how its end is told."""

import json

import pytest

from blspkd.config import ContinuationConfig, PromptConfig
from blspkd.errors import ConfigError, ModelError
from blspkd.generation.continuation import ContinuationWriter
from blspkd.generation.engines import make_engine
from blspkd.generation.engines.vllm import gpus_of_job

TEXTS = {f"utt{number}": text for number, text in enumerate(["the farmer sold six bags", "a cat", "they ate"])}


def configured(python, **options) -> ContinuationConfig:
    return ContinuationConfig(max_new_tokens=20, do_sample=False, prompt=PromptConfig("Continue:"), engine="vllm",
                              engine_options={"python": python, **options})


def test_name_and_version_are_recorded_and_how_it_is_run_is_not(vllm_stand_in, tiny_llm):
    config = configured(vllm_stand_in, tensor_parallel_size=2)
    recorded = make_engine(config).recorded(vars(config), tiny_llm)
    assert recorded["engine"] == {"name": "vllm", "version": "0.0.stand-in"}
    assert "engine_options" not in recorded and recorded["dtype"] == "float32"


@pytest.mark.parametrize("count, size, job, visible, expected", [
    (0, 1, 1, None, {}), (0, 2, 1, None, {}),
    (1, 1, 1, None, "0"), (1, 1, 3, None, "0"),
    (4, 1, 2, None, "1"), (4, 1, 5, None, "0"), (4, 1, 2, "4,5,6,7", "5"),
    (4, 2, 1, None, "0,1"), (4, 2, 2, None, "2,3"), (4, 2, 3, None, "0,1"), (5, 2, 2, None, "2,3"),
    (2, 2, 1, "GPU-a,GPU-b", "GPU-a,GPU-b")])
def test_jobs_take_turns_over_groups_of_gpus(monkeypatch, count, size, job, visible, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus_of_job(count, size, job) == (expected and {"CUDA_VISIBLE_DEVICES": expected})


def test_more_gpus_than_a_job_sees_are_an_error_before_the_llm_is_loaded():
    with pytest.raises(ConfigError, match="tensor_parallel_size: 4 GPUs are asked for, a job sees 2; lower it, or"):
        gpus_of_job(2, 4, 1)


def test_vllm_is_told_the_size_the_folder_and_no_more_positions_than_are_needed(vllm_stand_in, tiny_llm, monkeypatch):
    monkeypatch.setenv("STAND_IN", "showing")
    with pytest.raises(ModelError) as raised:
        ContinuationWriter(tiny_llm, configured(vllm_stand_in, tensor_parallel_size=2))
    shown = json.loads(str(raised.value).partition("ValueError: ")[2].rpartition(")")[0])
    assert shown["model"] == tiny_llm and shown["tensor_parallel_size"] == 2
    assert shown["max_model_len"] == 512 and shown["skip_tokenizer_init"] and shown["generation_config"] == "vllm"
    config = configured(vllm_stand_in)
    config.max_input_tokens = 30
    with pytest.raises(ModelError) as raised:
        ContinuationWriter(tiny_llm, config)
    shown = json.loads(str(raised.value).partition("ValueError: ")[2].rpartition(")")[0])
    assert 50 < shown["max_model_len"] < 150


def test_a_worker_that_dies_is_one_message(vllm_stand_in, tiny_llm, monkeypatch):
    monkeypatch.setenv("STAND_IN", "deadly")
    config = configured(vllm_stand_in)
    config.max_new_tokens = 50
    writer = ContinuationWriter(tiny_llm, config)
    with pytest.raises(ModelError, match="ended by signal SIGKILL; memory may have been short.*printed by vLLM; start"):
        writer.write(TEXTS)
