"""One tensor per utterance on disk, in shards: what is too dear to compute in every epoch and too large for memory.

A shard is a safetensors file that is put in place whole, so that a kill costs the shard in work and nothing else. It is
named after its utterances and what its tensors were made from (its fingerprint, which its header holds), so that runs
which share a folder share what is the same and never overwrite each other. Shards are memory-mapped: a tensor costs its
own bytes.
"""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from blspkd.errors import DataError
from blspkd.files import atomic_path, json_digest

_MAX_OPEN = 512  # shards that a process keeps mapped


@dataclass(frozen=True)
class Shard:
    """What one file is to hold."""

    utt_ids: list[str]
    fingerprint: dict[str, str]

    @property
    def name(self) -> str:
        return f"shard-{json_digest([self.utt_ids, self.fingerprint])[:16]}.safetensors"


class TensorStore:
    """The shards in `folder`; `store[utt_id]` reads a tensor. May be used by forked and spawned processes."""

    def __init__(self, folder: Path, shards: list[Shard]):
        self.folder, self.shards = folder, shards
        self.paths = [folder / shard.name for shard in shards]
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

    def remove_stale(self, shared: bool = False) -> list[str]:
        """Remove damaged shards and, unless others share the folder, those that were made from something else and what
        a kill left; returns what is different now."""
        changed, now = set(), self.shards[0].fingerprint
        wanted = dict(zip(self.paths, self.shards, strict=True))
        for path in sorted(self.folder.glob("shard-*")):
            found = _fingerprint(path)
            if shared and path not in wanted or path in wanted and found == wanted[path].fingerprint:
                continue
            if path.suffix == ".safetensors":
                changed |= {name for name in {*found, *now} if found.get(name) != now.get(name)}
            path.unlink()
        return sorted(changed)

    def _map(self, number: int) -> safe_open:
        path = self.paths[number]
        try:
            return safe_open(path, "pt")
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: cannot be read ({error}); start again to have it written anew (every node of a "
                            "distributed run has to see this folder)") from None


def _fingerprint(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}
