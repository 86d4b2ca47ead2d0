"""What `loading.py` measures: real recordings -> Whisper features, by the training's own data set and workers."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from transformers import WhisperFeatureExtractor

from blspkd.audio.samples import AudioSource, duration
from blspkd.config import DataConfig
from blspkd.data.batching import BatchPlan, collate
from blspkd.data.examples import Example, ExampleDataset
from blspkd.data.features import FeatureExtractor

PATTERNS = {"an4": "wav/*/*/*.sph", "librispeech": "*/*/*/*.flac"}


@dataclass
class Row:
    """One measurement, as it stands in the JSON file."""

    corpus: str
    pad_to_30s: bool
    workers: int
    utterances: int
    hours: float
    times_real_time: float  # of the median epoch
    times_per_core: float  # the same by processor time, of all epochs but the first
    mib_by_epoch: list[float]  # most memory of the process and its workers, pages that they share counted once


def examples_of(folder: Path, pattern: str) -> list[Example]:
    """Every recording below `folder`, with a prompt and a response of some tokens."""
    ids = np.arange(20, dtype=np.int32)
    found = [Example(path.stem, AudioSource(str(path)), duration(str(path)), ids, ids, ids, ids)
             for path in sorted(folder.glob(pattern))]
    if not found:
        raise SystemExit(f"{folder}: there is no {pattern}")
    return found


def measure(corpus: str, examples: list[Example], extractor: FeatureExtractor, workers: int, epochs: int) -> Row:
    """Load `epochs` epochs, as training does."""
    config = DataConfig(num_workers=workers)
    data = ExampleDataset(examples, extractor, config, 0, augment=False)
    plan = BatchPlan(examples, config, 0, 1)
    per_epoch = len(plan.epoch(0))
    batches = [[(epoch, int(index)) for index in batch] for epoch in range(epochs + 1) for batch in plan.epoch(0)]
    loader = torch.utils.data.DataLoader(data, batch_sampler=batches, collate_fn=collate, num_workers=workers)
    seconds, cores, memory, peak, loaded = [], [], [], 0.0, 0
    began = time.perf_counter()
    for number, batch in enumerate(loader, 1):
        assert not batch.errors, batch.errors[0]
        loaded += len(batch.utt_ids)
        if number % 4 == 0:  # looking takes some milliseconds
            peak = max(peak, mib())
        if number % per_epoch == 0:  # the first epoch starts the workers and warms the disk's cache
            seconds.append(time.perf_counter() - began)
            cores.append(processor_seconds())
            memory.append(round(peak, 1))
            began, peak = time.perf_counter(), 0.0
    assert loaded == len(examples) * (epochs + 1)
    audio = sum(example.duration for example in examples)
    return Row(corpus, extractor.pad, workers, len(examples), audio / 3600, audio / float(np.median(seconds[1:])),
               audio * epochs / (cores[-1] - cores[0]), memory[1:])


def processor_seconds() -> float:
    """What this process and its children have used."""
    own = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in [own, *own.children(recursive=True)])  # user, system


def mib() -> float:
    """Memory of this process and its children, shared pages counted once."""
    own = psutil.Process()
    return sum(process.memory_full_info().pss for process in [own, *own.children(recursive=True)]) / (1 << 20)


def run(folders: dict[str, Path | None], workers: list[int], epochs: int) -> Iterator[Row]:
    """A row for every corpus of `PATTERNS` that has a folder, padding and number of workers."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        WhisperFeatureExtractor().save_pretrained(name)
        Path(name, "config.json").write_text('{"model_type": "whisper"}', encoding="utf-8")
        for corpus, folder in folders.items():
            examples = examples_of(folder, PATTERNS[corpus]) if folder else []
            for pad in (True, False) if examples else ():
                for number in workers:
                    yield measure(corpus, examples, FeatureExtractor(name, pad), number, epochs)
