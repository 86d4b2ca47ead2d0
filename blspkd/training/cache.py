"""What frozen models say about every utterance, computed once and kept on disk instead of once per epoch.

Two caches, both off by default: the frames of a frozen speech encoder (without augmentation only), and the teacher's
last hidden states at the positions that the loss compares (always: the teacher never changes). Tensors are kept in
`model.dtype`, in which frozen weights compute: a run with a cache and one without differ by the rounding of matrix
products in batches of another shape, and by nothing else.

The size is announced, and free space checked, before anything is written. Every shard says what it was made from
(models, precision, versions; sizes and dates of audio files; prompt, text and continuations as token ids), so that the
phases of a run, and runs with one `cache_dir`, share what is the same: a distillation reads the frames that the
alignment of a larger set has computed. In a run's own folder what has become useless is removed. Removing a cache is
always safe.

`auto` compares what is still to be computed with how often the run would compute it otherwise: a cache saves nothing
where most utterances are heard once.
"""

import functools
import itertools
import logging
import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import transformers
from torch import Tensor

import blspkd
from blspkd.audio.samples import size_and_date
from blspkd.config import Switch, TrainConfig
from blspkd.data.batching import Batch, BatchPlan
from blspkd.data.examples import Cached, Example, ExampleDataset
from blspkd.data.features import FeatureExtractor
from blspkd.data.tensor_store import TensorStore
from blspkd.errors import DataError
from blspkd.files import text_digest
from blspkd.models.speech_llm import SpeechLlm
from blspkd.progress import progress_bar
from blspkd.training.loader import batch_loader

logger = logging.getLogger(__name__)
SHARD_BYTES = 64 << 20  # what waits in memory to be written, and what a kill can cost

_size_and_date = functools.cache(size_and_date)
Identify = Callable[[str], dict[str, str]]  # name of a model -> what tells it from others


def open_caches(config: TrainConfig, model: SpeechLlm, extractor: FeatureExtractor, sets: dict[str, Sequence[Example]],
                heard: dict[str, float], folder: Path, identify: Identify, device: torch.device,
                beat: Callable[[], None] = lambda: None) -> dict[str, Cached]:
    """Complete the caches that `config` asks for, every rank its share of the shards; returns them by set.

    heard: how often each utterance of a set is heard in the whole run, for `auto`. beat: called after every batch.
    Raises DataError where they do not fit on the disk.
    """
    several = dist.is_initialized() and dist.get_world_size() > 1
    rank, num_ranks = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)
    caches: dict[str, list[Cache]] = {name: [] for name in sets}
    for name, examples in sets.items():
        if frames := config.caches_frames:
            cache = FrameCache(model, examples, config, folder / f"frames-{name}", identify, extractor)
            caches[name] += _if_worth_it(cache, frames, heard[name])
        if teacher := config.caches_teacher:
            cache = TeacherCache(model, examples, config, folder / f"teacher-{name}", identify)
            caches[name] += _if_worth_it(cache, teacher, heard[name])
    every = list(itertools.chain(*caches.values()))
    if every:
        model.to(device)
        if rank == 0:
            _announce(every, folder, shared=bool(config.training.cache_dir))
        if several:
            dist.barrier()
        for cache in every:
            cache.write(rank, num_ranks, device, beat)
        for cache in every:
            cache.read()
    return {name: Cached(**{cache.kind: cache.store for cache in chosen}) for name, chosen in caches.items()}


def _if_worth_it(cache: "Cache", wanted: Switch, heard: float) -> list["Cache"]:
    """[cache], or nothing where `auto` finds that it would not pay."""
    worth = wanted is True or cache.is_worth_it(heard)
    if dist.is_initialized() and dist.get_world_size() > 1:  # the first rank's view: others may write into the folder
        values = [worth, cache.missing]
        dist.broadcast_object_list(values)
        worth, cache.missing = values
    return [cache] if worth else []


class Cache(ABC):
    """Tensors of one kind for one set of utterances: their place on disk, and how to compute them."""

    kind: str  # the field of `Cached`
    source: str  # what of an utterance they are made from

    def __init__(self, model: SpeechLlm, examples: Sequence[Example], config: TrainConfig, folder: Path,
                 fingerprint: dict[str, str], extractor: FeatureExtractor | None):
        """extractor: None where no audio is needed."""
        self.model, self.examples, self.config, self.extractor = model, examples, config, extractor
        self.bytes = self.rows() * self.width() * getattr(torch, config.model.dtype).itemsize
        self.digests = {example.utt_id: _digest([self.made_from(example)]) for example in examples}
        self.store = TensorStore(folder, {**_versions(), "dtype": config.model.dtype,
                                          "bf16": str(config.training.bf16),
                                          "attn_implementation": config.model.attn_implementation, **fingerprint})
        self.missing = self.store.find(self.digests)  # utterances, by id

    @abstractmethod
    def rows(self) -> np.ndarray:
        """Rows of every utterance's tensor, as near as can be told beforehand."""

    @abstractmethod
    def width(self) -> int:
        """Columns of the tensors."""

    @abstractmethod
    def made_from(self, example: Example) -> object:
        """`source`: whatever about an utterance changes its tensor."""

    @abstractmethod
    def compute(self, batch: Batch) -> Iterable[Tensor]:
        """[rows, width] of every utterance of a batch."""

    def bytes_missing(self) -> int:
        return int(self.bytes[self._indices_missing()].sum())

    def is_worth_it(self, heard: float) -> bool:
        """Whether less is missing than the run would compute without the cache, and there is room for it; logs why.

        heard: how often the run hears each utterance, or one of rate 1.
        """
        missing, otherwise = len(self.missing), heard * sum(min(1.0, example.rate) for example in self.examples)
        folder = next(path for path in self.store.folder.parents if path.is_dir())
        fits = self.bytes_missing() < shutil.disk_usage(folder).free
        worth = not missing or (missing < otherwise and fits)
        logger.info("%s: auto: %d of %d utterances are not there yet, and the run hears %.0f%s: %s",
                    self.store.folder.name, missing, len(self.examples), otherwise,
                    "" if fits else ", but the disk has no room", "a cache" if worth else "computed when heard")
        return worth

    def parts(self, num_ranks: int) -> list[list[int]]:
        """The missing utterances, as indices, shard by shard: those of one are alike, so that little is padding."""
        indices = self._indices_missing()
        sizes = self.bytes[indices]
        most = min(SHARD_BYTES, sizes.sum() / num_ranks + sizes.max(initial=0))  # a shard for every rank
        parts, size = [], math.inf
        for index in indices[np.argsort(sizes, kind="stable")].tolist():
            size += self.bytes[index]
            if size > most:
                parts.append([])
                size = self.bytes[index]
            parts[-1].append(index)
        return parts

    def write(self, rank: int, num_ranks: int, device: torch.device, beat: Callable[[], None]) -> None:
        """Compute and write the shards that fall to this rank.

        It waits for the others after each, so that no wait is long: collective operations have a time-out.
        """
        data, shares = self.config.data, self.parts(num_ranks)
        parts = shares[rank::num_ranks]
        every = [replace(example, rate=1.0) for example in self.examples]  # also those that an epoch may leave out
        batches = [(number, [(0, part[i]) for i in batch]) for number, part in enumerate(parts)
                   for batch in BatchPlan([every[i] for i in part], data, 0, 1).epoch(0)]
        loader = batch_loader(ExampleDataset(self.examples, self.extractor, data, 0, augment=False),
                              [batch for _, batch in batches], data.num_workers)
        total = sum(len(batch) for _, batch in batches)
        bar = progress_bar(f"cache {self.store.folder.name}", total, "utt") if rank == 0 and total else None
        loaded = zip(batches, loader, strict=True)
        for number, group in itertools.groupby(loaded, lambda pair: pair[0][0]):
            tensors: dict[str, Tensor] = {}
            for _, batch in group:
                for error in batch.errors:
                    logger.warning("%s", error)
                if batch.utt_ids:
                    tensors |= zip(batch.utt_ids, self._compute(batch.to(device)), strict=True)
                beat()
                if bar:
                    bar.update(len(batch.utt_ids) + len(batch.errors))
            utt_ids = [self.examples[i].utt_id for i in parts[number]]
            self.store.write({utt_id: self.digests[utt_id] for utt_id in utt_ids}, tensors)
            if num_ranks > 1:
                dist.barrier()
        if len(parts) < len(shares[::num_ranks]):  # by one
            dist.barrier()
        if bar:
            bar.close()

    def read(self) -> None:
        """Open what is there now. Raises DataError where another rank wrote what this one does not see."""
        if lost := self.store.find(self.digests):
            raise DataError(f"{self.store.folder}: lacks {len(lost)} utterances that were written just now ({lost[0]} "
                            "...); every node of a distributed run has to see this folder")

    @torch.no_grad()
    def _compute(self, batch: Batch) -> list[Tensor]:
        with torch.autocast(batch.features.device.type, torch.bfloat16, enabled=self.config.training.bf16):
            # cloned: a slice would keep, and write, the whole batch
            return [one.to("cpu", getattr(torch, self.config.model.dtype)).clone() for one in self.compute(batch)]

    def _indices_missing(self) -> np.ndarray:
        missing = set(self.missing)
        return np.array([i for i, example in enumerate(self.examples) if example.utt_id in missing], dtype=np.int64)


class FrameCache(Cache):
    """Frames [T, C] of the frozen speech encoder."""

    kind, source = "frames", "their audio"

    def __init__(self, model: SpeechLlm, examples: Sequence[Example], config: TrainConfig, folder: Path,
                 identify: Identify, extractor: FeatureExtractor):
        fingerprint = {"speech encoder": _digest(identify(config.model.speech_encoder).items()),
                       "pad_to_30s": str(config.model.pad_to_30s)}
        super().__init__(model, examples, config, folder, fingerprint, extractor)

    def rows(self) -> np.ndarray:
        seconds = torch.tensor([example.duration for example in self.examples])
        features = (seconds * self.extractor.frames_per_second).round().long().clamp(min=1)
        return self.model.encoder.output_lengths(features).clamp(min=1).numpy()

    def width(self) -> int:
        return self.model.encoder.width

    def made_from(self, example: Example) -> object:
        return example.audio, _size_and_date(example.audio.path)

    def compute(self, batch: Batch) -> Iterable[Tensor]:
        frames, lengths = self.model.encode(batch.features, batch.feature_lengths, batch.windows)
        return (row[:length] for row, length in zip(frames, lengths.tolist(), strict=True))


class TeacherCache(Cache):
    """The teacher's last hidden states [n, D] where the loss compares: input positions, then the response's."""

    kind, source = "teacher", "prompt, text or continuations"

    def __init__(self, model: SpeechLlm, examples: Sequence[Example], config: TrainConfig, folder: Path,
                 identify: Identify):
        self.with_input = model.adapter.aligned
        self.shifted = config.loss.response_positions == "shifted"
        fingerprint = {"llm": _digest(identify(config.model.llm).items()), "adapter": config.model.adapter,
                       "response_positions": config.loss.response_positions,
                       "share_prefix": str(config.model.share_prefix)}
        super().__init__(model, examples, config, folder, fingerprint, None)

    def rows(self) -> np.ndarray:
        return np.array([self.with_input * example.n_tokens + len(example.response) for example in self.examples])

    def width(self) -> int:
        return self.model.causal_lm.get_input_embeddings().embedding_dim

    def made_from(self, example: Example) -> object:
        return [part.tolist() for part in (example.prefix, example.input, example.suffix, example.response)]

    def compute(self, batch: Batch) -> Iterable[Tensor]:
        states = self.model.teacher_states(batch.sequences).flatten(0, 1)
        compared = batch.sequences.positions(self.shifted, self.with_input)
        states = states.index_select(0, compared.to(states.device))
        inputs = [self.with_input * example.n_tokens for example in batch.examples]
        parts = states.split(inputs + [len(example.response) for example in batch.examples])
        return map(torch.cat, zip(parts[:len(inputs)], parts[len(inputs):], strict=True))


def _announce(caches: list[Cache], folder: Path, shared: bool) -> None:
    """Remove what is stale; say what will be written, before it is. Raises DataError where it does not fit."""
    folder.mkdir(parents=True, exist_ok=True)
    for cache in caches:
        changed = cache.store.remove_stale(shared)
        if changed:
            logger.info("%s: computing it again, since %s changed", cache.store.folder, "; ".join(changed))
        elif cache.store.changed:
            logger.info("%s: computing %d utterances again, since %s changed", cache.store.folder,
                        len(cache.store.changed), cache.source)
    missing = {one.store.folder.name: one.bytes_missing() for one in caches}
    needed, free = sum(missing.values()), shutil.disk_usage(folder).free
    size = f"about {_readable(needed)} (" + ", ".join(f"{name} {_readable(n)}" for name, n in missing.items()) + ")"
    logger.info("cache %s: %s", folder,
                f"{size} will be written; {_readable(free)} are free" if needed else "complete")
    if needed > free:
        raise DataError(f"{folder}: the cache needs {size} and {_readable(free)} are free; set training.cache_dir to a "
                        "folder with more room, or cache_encoder_frames or cache_teacher to false")


def _versions() -> dict[str, str]:
    return {"blspkd": blspkd.__version__, "torch": torch.__version__, "transformers": transformers.__version__}


def _digest(values: Iterable[object]) -> str:
    return text_digest(map(repr, values))[:16]


def _readable(size: float) -> str:
    power = min(4, max(0, int(math.log(max(1.0, size * 1.024), 1024))))  # 1000 KiB reads as 0.977 MiB
    return f"{size / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
