"""One tensor per utterance on disk, in shards: what is too dear to compute in every epoch and too large for memory.

A shard is a safetensors file that is put in place whole, so that a kill costs the shard in work and nothing else. Its
header holds its fingerprint: what its tensors were made from, by name. Shards are memory-mapped: a tensor costs its own
bytes.
"""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from blspkd.errors import DataError
from blspkd.files import atomic_path

_MAX_OPEN = 512  # shards that a process keeps mapped


@dataclass(frozen=True)
class Shard:
    """What one file is to hold."""

    utt_ids: list[str]
    fingerprint: dict[str, str]


class TensorStore:
    """The shards in `folder`; `store[utt_id]` reads a tensor. May be used by forked and spawned processes."""

    def __init__(self, folder: Path, shards: list[Shard]):
        self.folder, self.shards = folder, shards
        self.paths = [folder / f"shard-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        self._shard_of = {utt_id: i for i, shard in enumerate(shards) for utt_id in shard.utt_ids}
        self._open: OrderedDict[int, safe_open] = OrderedDict()

    def __getstate__(self) -> dict:
        return {**vars(self), "_open": OrderedDict()}

    def get(self, utt_id: str) -> Tensor | None:
        """The tensor of an utterance, None where it was written without one. Raises DataError."""
        number = self._shard_of[utt_id]
        if number not in self._open:
            self._open[number] = self._map(number)
            if len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)
        try:
            return self._open[number].get_tensor(utt_id)
        except SafetensorError:
            return None

    def missing(self) -> list[int]:
        """Numbers of the shards that are still to be written."""
        return [number for number, path in enumerate(self.paths) if not path.is_file()]

    def write(self, number: int, tensors: dict[str, Tensor]) -> None:
        """Write a shard; utterances without a tensor are left out of `tensors`."""
        with atomic_path(self.paths[number]) as temporary:
            save_file({utt_id: tensor.contiguous() for utt_id, tensor in tensors.items()}, temporary,
                      self.shards[number].fingerprint)

    def remove_stale(self) -> list[str]:
        """Remove shards that were made from something else, and what a kill left; returns what is different now."""
        changed = set()
        wanted = dict(zip(self.paths, self.shards, strict=True))
        for path in sorted(self.folder.glob("shard-*")):
            found = _fingerprint(path)
            if path in wanted and found == wanted[path].fingerprint:
                continue
            if path.suffix == ".safetensors":
                now = wanted.get(path, self.shards[0]).fingerprint
                changed |= {name for name in {*found, *now} if found.get(name) != now.get(name)}
            path.unlink()
        return sorted(changed)

    def _map(self, number: int) -> safe_open:
        path = self.paths[number]
        try:
            file = safe_open(path, "pt")
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: cannot be read ({error}); start again to have it written anew (every node of a "
                            "distributed run has to see this folder)") from None
        if file.metadata() != self.shards[number].fingerprint:
            raise DataError(f"{path}: another run has written it anew; give each run a cache_dir of its own")
        return file


def _fingerprint(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}
