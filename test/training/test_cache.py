"""Caches save work and change no result; they notice what they were made from, and announce their size."""

import json
import logging
import os
import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from blspkd.bin.train import main
from blspkd.config import TrainConfig
from blspkd.config_file import load_config
from blspkd.data.batching import collate
from blspkd.data.examples import ExampleDataset, make_examples
from blspkd.data.features import FeatureExtractor
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.errors import ConfigError, DataError
from blspkd.kaldi.data_dir import KaldiDir, read_continuations
from blspkd.models.base_models import model_identity
from blspkd.models.speech_llm import SpeechLlm
from blspkd.training import cache
from blspkd.training.cache import open_caches
from blspkd.training.objective import Denominators, KdObjective
from blspkd.training.run import prompt_of

OPTIONS = ["--pad_to_30s", "false", "--adapter_options",
           "{heads: 2, ffn_dim: 32, num_pre_cif_layers: 1, num_post_cif_layers: 1}",
           "--warmup_steps", "1", "--batch_utterances", "3", "--num_workers", "0",
           "--learning_rate", "3e-3", "--log_steps", "1", "--save_steps", "2", "--keep_checkpoints", "10",
           "--plora_rank", "2", "--gradient_accumulation", "2", "--max_steps", "4", "--eval_steps", "4"]
AUTO = ["--cache_encoder_frames", "auto", "--cache_teacher", "auto"]
CACHES = ["--cache_encoder_frames", "true", "--cache_teacher", "true"]


@pytest.fixture
def command(data_dir, tiny_llm, tiny_encoder):
    return ["--llm", tiny_llm, "--speech_encoder", tiny_encoder, "--train_dir", data_dir, "--valid_dir", data_dir,
            *OPTIONS]


@pytest.fixture
def run(data_dir, tiny_llm, tiny_encoder, monkeypatch):
    """A training run as far as its caches: returns objective, examples, extractor, configuration and caches."""
    monkeypatch.setattr(cache, "SHARD_BYTES", 4000)
    Run = namedtuple("Run", "objective examples extractor config cached")

    def open_(folder, *extra, heard=2.0, only=slice(None)):
        cache._size_and_date.cache_clear()
        config = load_config(TrainConfig, None, ["--llm", tiny_llm, "--speech_encoder", tiny_encoder, *OPTIONS, *extra])
        prompt = prompt_of(data_dir, tiny_llm)
        examples = make_examples(KaldiDir.read(data_dir), read_continuations(f"{data_dir}/continuation"),
                                 Prompt(load_tokenizer(tiny_llm), prompt), config.data).examples[only]
        torch.manual_seed(0)
        objective = KdObjective(SpeechLlm.from_config(config.model, prompt), config.loss)
        extractor = FeatureExtractor(tiny_encoder, config.model.pad_to_30s)
        cached = open_caches(config, objective.speech_llm, extractor, {"train": examples}, {"train": heard}, folder,
                             model_identity, torch.device("cpu"))["train"]
        return Run(objective, examples, extractor, config, cached)
    return open_


def batch_of(run, cached, *indices):
    dataset = ExampleDataset(run.examples, run.extractor, run.config.data, 0, True, cached)
    return collate([dataset[(0, i)] for i in indices])


def history(folder, step):
    rows = json.loads((folder / f"checkpoint-{step}/trainer_state.json").read_text())["log_history"]
    return [{key: value for key, value in row.items()
             if not key.startswith("time_") and not key.endswith(("runtime", "per_second"))} for row in rows]


def weights(folder):
    return {f"{path.name}:{key}": value for path in sorted(Path(folder).rglob("*.safetensors"))
            for key, value in load_file(path).items()}


def written(folder):
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def test_the_loss_curve_is_the_same_and_a_resumed_run_the_very_same(command, tmp_path, monkeypatch):
    plain, first, second = (tmp_path / name for name in ("plain", "first", "second"))
    main([*command, "--output_dir", str(plain)])
    main([*command, *CACHES, "--output_dir", str(first)])
    for a, b in zip(history(plain, 4), history(first, 4), strict=True):
        assert b == pytest.approx(a, rel=1e-4, abs=1e-5)
    shutil.copytree(first, second)
    shutil.rmtree(second / "checkpoint-4")
    shutil.rmtree(second / "model")
    monkeypatch.setattr(SpeechLlm, "encode", None)  # nothing asks for them any more, the validation set included
    monkeypatch.setattr(SpeechLlm, "teacher_states", None)
    monkeypatch.setattr("blspkd.data.examples.load", None)
    main([*command, *CACHES, "--output_dir", str(second)])
    found, expected = weights(second / "model"), weights(first / "model")
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


def test_two_ranks_share_the_work_and_equal_one(warm, command, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    subprocess.run([warm / "bin/python", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m",
                    "blspkd.bin.train", *command, *CACHES, "--gradient_accumulation", "1", "--output_dir",
                    str(tmp_path / "two")], check=True, env=environment, capture_output=True, timeout=600)
    main([*command, *CACHES, "--output_dir", str(tmp_path / "one")])
    shards = [[path for path in sorted((tmp_path / name / "cache").rglob("*.safetensors"))] for name in ("two", "one")]
    assert [len(paths) for paths in shards] == [8, 4]  # frames and teacher, of the training and the validation set
    two, one = ({(path.parent.name, key): value for path in paths for key, value in load_file(path).items()}
                for paths in shards)
    assert two.keys() == one.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5, msg=str(key))
    two, one = (weights(tmp_path / name / "model") for name in ("two", "one"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.parametrize("options", [[], ["--pad_to_30s", "true"], ["--bf16", "true"], ["--dtype", "bfloat16"],
                                     ["--response_positions", "released", "--share_prefix", "false"],
                                     ["--w_input", "0"],
                                     ["--adapter", "conv", "--w_input", "0", "--adapter_options", "{bottleneck: 8}"]],
                         ids=" ".join)
def test_loss_and_gradients_are_those_without_a_cache(run, tmp_path, options):
    now = run(tmp_path / "cache", *CACHES, *options)
    half = "bf16" in " ".join(options) or "bfloat16" in options
    for training in (True, False):
        now.objective.train(training)
        results = []
        for cached in (None, now.cached):
            now.objective.zero_grad()
            batch = batch_of(now, cached, 3, 0, 7)
            assert batch.encoded == (batch.teacher is not None) == (cached is not None)
            with torch.autocast("cpu", torch.bfloat16, enabled=now.config.training.bf16):
                found = now.objective(batch, Denominators.of([batch]))
            found.loss.backward()
            gradients = [p.grad.clone() for p in now.objective.parameters() if p.requires_grad]
            results.append((found.loss.detach(), *gradients))
        for plain, saved in zip(*results, strict=True):
            # half precision rounds otherwise in batches of another shape
            tolerance = 0.05 if half else 1e-5
            largest = max(1e-2, float(plain.abs().max()))
            torch.testing.assert_close(saved, plain, rtol=tolerance, atol=tolerance * largest)


def test_the_size_is_announced_before_anything_is_written(run, tmp_path, caplog, monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 5000))
    caplog.set_level(logging.INFO)
    with pytest.raises(DataError, match=r"about .* KiB \(frames-train .*, teacher-train .*\) and 4.88 KiB are free"):
        run(tmp_path / "cache", *CACHES)
    assert not list(tmp_path.glob("cache/**/*.safetensors"))
    monkeypatch.undo()
    monkeypatch.setattr(cache, "SHARD_BYTES", 4000)
    now = run(tmp_path / "cache", *CACHES)
    announced = sum(int(one.sum()) for one in (
        cache.TeacherCache(now.objective.speech_llm, now.examples, now.config, tmp_path / "x", model_identity).bytes,
        cache.FrameCache(now.objective.speech_llm, now.examples, now.config, tmp_path / "x", model_identity,
                         now.extractor).bytes))
    tensors = sum(value.numel() * value.itemsize for value in weights(tmp_path / "cache").values())
    assert announced == pytest.approx(tensors, rel=0.02)


def test_only_what_is_missing_is_computed_after_a_kill(run, tmp_path):
    folder = tmp_path / "cache"
    run(folder, *CACHES)
    before = written(folder)
    assert len([name for name in before if name.startswith("teacher")]) > 2  # several shards
    victim = folder / "teacher-train" / sorted(os.listdir(folder / "teacher-train"))[1]
    contents = load_file(victim)
    victim.rename(victim.with_name(victim.name + ".tmp-1"))
    run(folder, *CACHES)
    after = written(folder)
    assert {name for name in before if before[name] != after.get(name)} == {f"teacher-train/{victim.name}"}
    assert not list(folder.rglob("*.tmp-*"))
    for utt_id, tensor in load_file(victim).items():
        assert torch.equal(tensor, contents[utt_id])


def test_what_changed_is_computed_again_and_named(run, data_dir, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run(tmp_path / "cache", *CACHES)
    os.utime(next(Path(data_dir).glob("*.wav")), (0, 0))
    path = Path(data_dir) / "continuation"
    replies = path.read_text().count("nurse")
    path.write_text(path.read_text().replace("nurse", "pilot"))
    caplog.clear()
    run(tmp_path / "cache", *CACHES)
    assert "frames-train: computing 1 utterances again, since their audio changed" in caplog.text
    assert f"teacher-train: computing {replies} utterances again, since prompt, text or continuations" in caplog.text
    caplog.clear()
    now = run(tmp_path / "cache", *CACHES, "--dtype", "bfloat16")
    assert caplog.text.count("since dtype changed") == 2
    assert now.cached.frames.get(now.examples[0].utt_id).dtype == torch.bfloat16
    caplog.clear()
    run(tmp_path / "cache", *CACHES, "--dtype", "bfloat16")
    assert "complete" in caplog.text and "again" not in caplog.text


def test_a_smaller_set_reads_what_a_larger_one_computed(run, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    whole = run(folder, *CACHES)
    before = written(folder)
    monkeypatch.setattr(SpeechLlm, "encode", None)
    monkeypatch.setattr(SpeechLlm, "teacher_states", None)
    part = run(folder, *CACHES, only=slice(1, None, 3))
    assert written(folder).items() <= before.items()
    for example in part.examples:
        assert torch.equal(part.cached.frames.get(example.utt_id), whole.cached.frames.get(example.utt_id))
        assert torch.equal(part.cached.teacher.get(example.utt_id), whole.cached.teacher.get(example.utt_id))


def test_what_a_larger_set_adds_is_computed_alone(run, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    part = run(folder, *CACHES, only=slice(1, None, 3))
    before = written(folder)
    states = {example.utt_id: part.cached.teacher.get(example.utt_id) for example in part.examples}
    whole = run(folder, *CACHES)
    assert before.items() <= written(folder).items()
    new = [utt_id for name in written(folder).keys() - before.keys() for utt_id in load_file(folder / name)]
    assert sorted(new) == sorted(2 * [one.utt_id for one in whole.examples if one.utt_id not in states])
    for utt_id, tensor in states.items():
        assert torch.equal(whole.cached.teacher.get(utt_id), tensor)


@pytest.mark.parametrize("heard", [0.5, 1.0, 1.5])
def test_auto_caches_what_is_heard_more_than_once(run, tmp_path, caplog, heard):
    caplog.set_level(logging.INFO)
    now = run(tmp_path / "cache", *AUTO, heard=heard)
    n = len(now.examples)
    told = f"{n} of {n} utterances are not there yet, and the run hears {heard * n:.0f}: "
    for name, store in (("frames", now.cached.frames), ("teacher", now.cached.teacher)):
        assert (store is not None) == (heard > 1)
        assert f"{name}-train: auto: {told}{'a cache' if heard > 1 else 'computed when heard'}" in caplog.text
    assert bool(written(tmp_path)) == (heard > 1)


def test_auto_does_without_where_the_disk_has_no_room(run, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 5000))
    assert run(tmp_path / "cache", *AUTO, heard=3).cached.frames is None
    assert "but the disk has no room: computed when heard" in caplog.text


def test_auto_reads_what_is_there_and_weighs_what_is_not(run, tmp_path):
    folder = tmp_path / "cache"
    half = run(folder, *CACHES, only=slice(0, None, 2))
    assert run(folder, *AUTO, heard=0.1, only=slice(0, None, 4)).cached.frames is not None
    n = len(half.examples)  # of 2 n, or one less
    before = written(folder)
    assert run(folder, *AUTO, heard=0.4).cached.teacher is None and written(folder) == before
    assert run(folder, *AUTO, heard=0.6).cached.teacher is not None and len(written(folder)) > len(before)
    assert n > 2


@pytest.mark.parametrize("options", [["--time_masks", "1"], ["--train_encoder", "true"]])
def test_auto_caches_no_frames_that_change(run, tmp_path, options):
    cached = run(tmp_path / "cache", *AUTO, *options).cached
    assert cached.frames is None and cached.teacher is not None


def test_auto_caches_no_teacher_where_there_is_none(run, tmp_path):
    cached = run(tmp_path / "cache", *AUTO, "--w_input", "0", "--w_response", "0", "--w_response_ce", "1").cached
    assert cached.teacher is None and cached.frames is not None


@pytest.mark.parametrize(("steps", "evaluations", "reads"), [(2, 0, ""), (12, 0, "train"), (2, 1, "valid")])
def test_a_run_counts_how_often_it_hears_each_utterance(command, tmp_path, caplog, steps, evaluations, reads):
    caplog.set_level(logging.INFO)
    main([*command, *AUTO, "--max_steps", str(steps), "--eval_steps", str(evaluations), "--output_dir",
          str(tmp_path / "exp")])
    for name in ("train", "valid"):
        told = [line for line in caplog.messages if line.startswith(f"teacher-{name}: auto")]
        assert len(told) == 1 and ("a cache" in told[0]) == (name == reads), told


def test_broken_audio_is_reported_as_without_a_cache(run, data_dir, tmp_path):
    broken = sorted(Path(data_dir).glob("*.wav"))[2]
    broken.write_bytes(b"")
    now = run(tmp_path / "cache", *CACHES)
    plain, cached = batch_of(now, None, 2, 4), batch_of(now, now.cached, 2, 4)
    assert plain.utt_ids == cached.utt_ids == [now.examples[4].utt_id] and len(plain.errors) == len(cached.errors) == 1
    assert broken.stem in cached.errors[0] and "frames-train" in cached.errors[0]
    assert len(cached.teacher) == now.examples[4].n_tokens + len(now.examples[4].response)


@pytest.mark.parametrize(("options", "named"), [
    (["--train_encoder", "true"], "model.train_encoder"), (["--time_masks", "1"], "data.time_masks"),
    (["--speed_factors", "[0.9, 1.1]"], "data.speed_factors"), (["--noise_snr_db", "[5, 9]"], "data.noise_snr_db")])
def test_frames_that_change_are_not_cached(options, named):
    with pytest.raises(ConfigError, match=f"cache_encoder_frames: .*{named}"):
        load_config(TrainConfig, None, ["--cache_encoder_frames", "true", *options])


def test_without_a_teacher_there_is_none_to_cache():
    with pytest.raises(ConfigError, match="cache_teacher"):
        load_config(TrainConfig, None, ["--cache_teacher", "true", "--w_input", "0", "--w_response", "0",
                                        "--w_response_ce", "1"])
