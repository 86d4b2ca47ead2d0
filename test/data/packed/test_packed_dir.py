"""A packed directory gives the batches of its data directory, bit for bit."""

import os
import pickle
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from blspkd.audio.archive import close_shards
from blspkd.audio.samples import load
from blspkd.config import DataConfig
from blspkd.data.batching import BatchPlan, collate
from blspkd.data.example_columns import columns, prefixes, token_counts
from blspkd.data.examples import ExampleDataset, make_examples, without_prompt
from blspkd.data.features import FeatureExtractor
from blspkd.data.operations import apply_operations
from blspkd.data.packed.packed_dir import PackedDir
from blspkd.errors import AudioError, DataError
from blspkd.kaldi.data_dir import KaldiDir, read_continuations

AUGMENTED = {"time_masks": 2, "frequency_masks": 1, "speed_factors": [0.9, 1.0, 1.1], "noise_snr_db": [5, 20],
             "vocal_tract_warp": 0.04, "equaliser_db": 0.5, "coloured_noise_share": 0.5}


def from_directory(mixed, prompt, config, with_continuations=True):
    continuations = read_continuations(mixed / "continuation") if with_continuations else None
    return make_examples(KaldiDir.read(mixed), continuations, prompt, config)


def same(a, b, path="batch") -> None:
    """Equal to the last bit, types included."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b) and a.dtype == b.dtype, path
    elif isinstance(a, np.ndarray):
        assert a.tobytes() == b.tobytes() and a.dtype == b.dtype and a.shape == b.shape, path
    elif hasattr(a, "__dataclass_fields__"):
        for field in fields(a):
            if field.name != "audio":
                same(getattr(a, field.name), getattr(b, field.name), f"{path}.{field.name}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for i, pair in enumerate(zip(a, b, strict=True)):
            same(*pair, f"{path}[{i}]")
    else:
        assert a == b and type(a) is type(b), path


@pytest.mark.parametrize("augment", [False, True], ids=["plain", "augmented"])
@pytest.mark.parametrize("with_continuations", [True, False], ids=["distillation", "alignment"])
def test_all_batches_of_two_epochs_are_equal(mixed, prompt, pack, tiny_encoder, tiny_llm, tmp_path, augment,
                                             with_continuations):
    pack()
    data = PackedDir(tmp_path / "packed")
    data.check(prompt, tiny_llm)
    config = DataConfig(batch_utterances=4, min_duration=0.75, **(AUGMENTED if augment else {}))
    theirs = from_directory(mixed, prompt, config, with_continuations)
    ours = data.select(config, with_continuations)
    assert str(ours) == str(theirs) and len(ours.examples) == 15
    both = [theirs.examples, ours.examples]
    if not with_continuations:
        both = [without_prompt(examples) for examples in both]
    extractor, batches = FeatureExtractor(tiny_encoder, False), []
    for examples in both:
        dataset = ExampleDataset(examples, extractor, config, 3, augment, negatives=True)
        plan = BatchPlan(examples, config, 3, 9, accumulation=2)
        batches.append([collate([dataset[key] for key in keys]) for keys in plan])
    assert len(batches[0]) == 9 and {key[0] for keys in plan for key in keys} >= {0, 1}
    same(*batches)
    assert not any(batch.errors for batch in batches[0])


def test_what_a_start_asks_of_all_examples_is_the_same(mixed, prompt, pack, tmp_path):
    pack()
    data = PackedDir(tmp_path / "packed")
    for limits in {}, {"max_duration": 0.95}, {"max_tokens": 30}:
        config = DataConfig(**limits)
        for strip in False, True:
            theirs, ours = from_directory(mixed, prompt, config).examples, data.select(config, True).examples
            if strip:
                theirs, ours = without_prompt(theirs), without_prompt(ours)
            same(columns(ours), columns(theirs))
            same(token_counts(ours), token_counts(theirs))
            assert prefixes(ours) == prefixes(theirs)
            same(list(ours), list(theirs))
            assert len(ours) == len(theirs) and ours[-1].utt_id == theirs[-1].utt_id
            with pytest.raises(IndexError):
                ours[len(ours)]
    assert len(data.turns) == 2  # one for each instruction


def test_why_utterances_are_left_out_is_told_alike(mixed, prompt, pack, tmp_path):
    pack()
    config = DataConfig(min_duration=0.75, max_duration=0.95, max_tokens=30)
    theirs, ours = from_directory(mixed, prompt, config), PackedDir(tmp_path / "packed").select(config, True)
    assert ours.left_out == theirs.left_out and len(ours.left_out) == 3
    with pytest.raises(DataError) as packed_error:
        PackedDir(tmp_path / "packed").select(DataConfig(max_tokens=1), True)
    with pytest.raises(DataError) as error:
        from_directory(mixed, prompt, DataConfig(max_tokens=1))
    assert str(packed_error.value).partition(": ")[2] == str(error.value).partition(": ")[2]


@pytest.mark.parametrize("operations", [
    [{"name": "mix", "weights": {"a": 1, "b": 3}}], [{"name": "mask_speech", "share": 0.5}],
    [{"name": "filter", "max_duration": 0.95, "num_jobs": 1}, {"name": "tags"}]], ids=["mix", "mask", "filter"])
def test_data_operations_give_the_same_examples_and_record(mixed, prompt, pack, tmp_path, operations):
    pack()
    data = PackedDir(tmp_path / "packed")
    theirs, record = apply_operations(operations, from_directory(mixed, prompt, DataConfig()).examples,
                                      KaldiDir.read(mixed), 0, prompt, 512)
    ours, our_record = apply_operations(operations, list(data.select(DataConfig(), True).examples), data, 0, prompt,
                                        512)
    same(ours, theirs)
    assert our_record | {"data": ""} == record | {"data": ""}


def test_another_process_maps_it_by_itself(mixed, pack, tmp_path):
    pack()
    examples = PackedDir(tmp_path / "packed").select(DataConfig(), True).examples
    sent = pickle.dumps(examples)
    assert len(sent) < 2000
    same(list(pickle.loads(sent)), list(examples))


def test_a_moved_directory_needs_no_source(mixed, prompt, pack, tiny_llm, tmp_path):
    pack()
    moved = tmp_path / "cluster/packed"
    moved.parent.mkdir()
    os.rename(tmp_path / "packed", moved)
    os.rename(mixed.parent, tmp_path / "elsewhere")
    os.rename(tmp_path / "audio", tmp_path / "gone")
    data = PackedDir(moved)
    data.check(prompt, tiny_llm)
    assert len(data.select(DataConfig(), True).examples) == 15
    assert data["u06"].text == "état, naïve 東京"
    with pytest.raises(DataError, match="there is no utterance u99"):
        data["u99"]


def test_a_shard_that_is_cut_or_lost_meanwhile_is_named(mixed, pack, tmp_path):
    pack()
    examples = PackedDir(tmp_path / "packed").select(DataConfig(), True).examples
    shard = tmp_path / "packed/shards/shard-00001-of-00006.arrow"
    os.truncate(shard, 100)
    with pytest.raises(DataError, match="shard-00001-of-00006.arrow: is cut; pack the directory again"):
        examples[0]
    shard.unlink()
    close_shards()
    with pytest.raises(DataError, match="shard-00001-of-00006.arrow: is not there; pack"):
        examples[0]


def test_a_training_that_reads_goes_on_with_the_shards_that_it_opened(mixed, pack, tmp_path):
    pack()
    examples = PackedDir(tmp_path / "packed").select(DataConfig(), True).examples
    before = list(examples)
    (mixed / "text").write_text((mixed / "text").read_text().replace("u00 the", "u00 this and that of the"))
    pack()
    same(list(examples), before)


def test_damaged_audio_is_told_with_the_shard_to_remove(mixed, pack, tmp_path):
    pack()
    data = PackedDir(tmp_path / "packed")
    shard = Path(data.shards[data.index.shard[3]])
    damaged, at = bytearray(shard.read_bytes()), int(data.index.audio_at[3])
    damaged[at:at + 64] = bytes(64)
    shard.write_bytes(damaged)
    with pytest.raises(AudioError, match=rf"can decode.*; or remove {shard} and pack the directory again"):
        load(data.audio(3))
    shard.unlink()
    assert "1 written" in pack() and len(load(PackedDir(tmp_path / "packed").audio(3)))
