"""Does loading keep up? Real recordings -> Whisper features through the training's own data set and workers.

    python tools/benchmarks/loading.py --an4 DIR --librispeech DIR [--workers "0 1 2"] [--epochs 2] [--json FILE]

Prints seconds of audio per second, the same per second of processor time (what one core would do if it were free, which
a busy machine does not change), and the most memory that the process and its workers had in each epoch, which shows
whether loading an epoch leaves anything behind. The folders are those of the official layouts; a corpus
that is not named is left out. Nothing is downloaded: the features are those of Whisper's own settings (80 bins, 30 s).
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
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
from blspkd.files import atomic_write

GOAL = 300  # times real time, on 2 cores
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--an4", type=Path, help="folder that holds etc/ and wav/")
    parser.add_argument("--librispeech", type=Path, help="folder that holds train-clean-100/ ...")
    parser.add_argument("--workers", default="0 1 2")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        WhisperFeatureExtractor().save_pretrained(name)
        Path(name, "config.json").write_text('{"model_type": "whisper"}', encoding="utf-8")
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; goal: {GOAL} x real time")
        for corpus, folder in (("an4", args.an4), ("librispeech", args.librispeech)):
            examples = examples_of(folder, PATTERNS[corpus]) if folder else []
            for pad in (True, False) if examples else ():
                for workers in map(int, args.workers.split()):
                    row = measure(corpus, examples, FeatureExtractor(name, pad), workers, args.epochs)
                    rows.append(row)
                    print(f"{corpus:<12} {'padded to 30 s' if pad else 'trimmed':<14}  {workers} workers  "
                          f"{row.times_real_time:6.0f} x real time, {row.times_per_core:6.0f} per core   "
                          "MiB by epoch: "
                          + " ".join(f"{mib:.0f}" for mib in row.mib_by_epoch), flush=True)
    if args.json:
        with atomic_write(args.json) as file:
            json.dump([asdict(row) for row in rows], file, indent=1)


if __name__ == "__main__":
    main()
