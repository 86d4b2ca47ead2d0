"""One tensor per utterance on disk, in shards: what is too expensive for every epoch and too large for memory.

A shard is a safetensors file that is put in place whole, so that a kill costs the shard in work and nothing else. Its
header holds what all its tensors were made from (the fingerprint) and a digest of what each utterance adds to that. So
a run finds the tensors of its utterances in whatever shards of the folder hold them, whoever wrote them: those of a
larger set serve a smaller one, and an utterance that is new or has changed is computed alone. Tensors are read, not
memory-mapped: pages of a mapping would count as memory of every process that has read them.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from blspkd.errors import DataError
from blspkd.files import atomic_path, json_digest

_MAX_OPEN = 512  # shards that a process keeps open
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_UTTERANCES = "utterances"  # in a shard's header, beside the fingerprint: JSON, utterance id -> digest


class TensorStore:
    """Tensors made from `fingerprint` in `folder`, by utterance. May be used by forked and spawned processes."""

    def __init__(self, folder: Path, fingerprint: Mapping[str, str]):
        self.folder, self.fingerprint = folder, dict(fingerprint)
        self.paths: list[Path] = []  # shards that hold what `find` was asked for
        self.changed: set[str] = set()  # utterances of which it only found what they were before
        self._shard_of: dict[str, int] = {}
        self._open: OrderedDict[int, _ShardFile] = OrderedDict()

    def __getstate__(self) -> dict:
        return {**vars(self), "_open": OrderedDict()}

    def find(self, digests: Mapping[str, str]) -> list[str]:
        """Look for the tensors of these utterances (id -> digest); returns the ids that no shard holds."""
        self.paths, self.changed, self._shard_of = [], set(), {}
        self._open.clear()
        for path in sorted(self.folder.glob("shard-*.safetensors")):
            fingerprint, held = _header(path)
            if fingerprint == self.fingerprint:
                self.changed |= held.keys() & digests.keys()
                found = [utt_id for utt_id, digest in held.items()
                         if digests.get(utt_id) == digest and utt_id not in self._shard_of]
                if found:
                    self._shard_of |= dict.fromkeys(found, len(self.paths))
                    self.paths.append(path)
        self.changed -= self._shard_of.keys()
        return [utt_id for utt_id in digests if utt_id not in self._shard_of]

    def get(self, utt_id: str) -> Tensor | None:
        """The tensor of an utterance that was found, None where it was written without one. Raises DataError."""
        return self._file(self._shard_of[utt_id]).get(utt_id)

    def write(self, digests: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
        """Write a shard for these utterances; those without a tensor are left out of `tensors`."""
        header = {**self.fingerprint, _UTTERANCES: json.dumps(dict(digests))}
        with atomic_path(self.folder / f"shard-{json_digest(header)[:16]}.safetensors") as temporary:
            save_file({utt_id: tensor.contiguous() for utt_id, tensor in tensors.items()}, temporary, header)

    def remove_stale(self, shared: bool = False) -> list[str]:
        """Remove damaged shards and, unless others share the folder, those in which `find` found nothing and what a
        kill left. Returns the parts of the fingerprint that are different now."""
        changed: set[str] = set()
        for path in set(self.folder.glob("shard-*")) - set(self.paths):
            fingerprint = _header(path)[0] if path.suffix == ".safetensors" else None
            if shared and fingerprint != {}:
                continue
            if fingerprint:
                names = fingerprint.keys() | self.fingerprint.keys()
                changed |= {name for name in names if fingerprint.get(name) != self.fingerprint.get(name)}
            path.unlink(missing_ok=True)
        return sorted(changed)

    def _file(self, number: int) -> "_ShardFile":
        if number not in self._open:
            path = self.paths[number]
            try:
                self._open[number] = _ShardFile(path)
            except (OSError, ValueError) as error:
                raise DataError(f"{path}: cannot be read ({error}); start again to have it written anew (every node of "
                                "a distributed run has to see this folder)") from None
            if len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)
        return self._open[number]


class _ShardFile:
    """A safetensors file: the length of a header, which is JSON, and the tensors' bytes, one behind the other."""

    def __init__(self, path: Path):
        """Raises OSError, and ValueError for a file that is damaged."""
        self.file = open(path, "rb", buffering=0)  # closed when it is dropped
        length = int.from_bytes(self.file.read(8), "little")
        size = os.fstat(self.file.fileno()).st_size - 8 - length
        if length == 0 or size < 0:
            raise ValueError("it is cut short")
        header = json.loads(self.file.read(length))
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self.begin = 8 + length
        self.places = {name: (_DTYPES[entry["dtype"]], entry["shape"], *entry["data_offsets"])
                       for name, entry in header.items()}
        if size != max((stop for *_, stop in self.places.values()), default=0):
            raise ValueError("it is cut short")

    def get(self, name: str) -> Tensor | None:
        if name not in self.places:
            return None
        dtype, shape, start, stop = self.places[name]
        data = bytearray(os.pread(self.file.fileno(), stop - start, self.begin + start))  # forks share a file's place
        return torch.frombuffer(data, dtype=dtype).view(shape) if data else torch.empty(shape, dtype=dtype)


def _header(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Fingerprint and digests by utterance; both empty for a file that is damaged or of another kind."""
    try:
        values = dict(_ShardFile(path).metadata)
        return values, json.loads(values.pop(_UTTERANCES, "{}"))
    except (OSError, ValueError, KeyError, TypeError):
        return {}, {}
