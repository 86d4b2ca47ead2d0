"""`data_dir pack`: a data directory, its continuations and a tokenizer -> a packed directory, shard by shard.

Shards are stretches of the sorted utterances, fixed by the data alone and shared out among jobs. A shard that is whole,
and was made from the same (texts, continuations, durations, audio by size and date, tokenizer, prompt), is skipped.
Whoever finds all shards whole writes the index and, last, `packed.json`: the last of several jobs, or a call after.
"""

import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from blspkd.audio.lossless import encoded
from blspkd.audio.samples import file_of, size_and_date
from blspkd.data.packed import made_from
from blspkd.data.packed.index import write_index
from blspkd.data.packed.shard import Row, arrow, state, write_shard
from blspkd.data.prompts import Prompt
from blspkd.errors import AudioError, ConfigError, DataError
from blspkd.files import atomic_path, atomic_write, contents_digest, json_digest, read_json
from blspkd.kaldi.data_dir import KaldiDir, Utterance, read_continuations
from blspkd.kaldi.tables import remedy_command
from blspkd.progress import progress_bar

MARKER, INDEX, SHARDS = "packed.json", "index.arrow", "shards"
CUT_BYTES_PER_SECOND = 20_000  # of what is cut out of a recording: flac, 16 kHz; only the plan goes by it
_SHOWN = 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """One of the plan."""

    path: Path
    utterances: list[Utterance]
    digest: str  # of what it is made from


class Packing:
    """The work on one data directory."""

    def __init__(self, source: Path, packed: Path, prompt: Prompt, llm: str, shard_bytes: int):
        """llm: whose tokenizer `prompt` has. Raises DataError where the directory is not in order."""
        arrow()
        if not source.is_dir():
            raise DataError(f"{source}: there is no such data directory; has stage 1 (data preparation) run?")
        if packed.resolve() == source.resolve():
            raise DataError(f"{packed}: is the data directory itself; choose another place")
        if packed.exists() and not is_packed(packed) and any(packed.iterdir()):
            raise DataError(f"{packed}: exists and is no packed directory; remove it or choose another place")
        self.source, self.packed, self.prompt, self.llm = source, packed, prompt, llm
        self.tables = made_from.table_states(source)  # before they are read: what changes meanwhile will be noticed
        self.data = KaldiDir.read(source)
        self.continuations = {}
        if (source / "continuation").exists():
            self.continuations = read_continuations(source / "continuation")
        without = next((utterance.utt_id for utterance in self.data if utterance.duration is None), None)
        if without is not None:
            raise DataError(f"{source}: no duration for utterance {without}; run "
                            f"`{remedy_command('get_utt2dur.sh', source)}`")
        self.settings = {"format": made_from.FORMAT, "llm": llm, "prompt": made_from.prompt_values(prompt.config),
                         "tokenizer": made_from.tokenizer_digest(prompt.tokenizer)}
        self._state = functools.lru_cache(maxsize=1024)(size_and_date)  # neighbours are in one file
        groups = list(self._groups(shard_bytes))
        self.shards = [Shard(packed / SHARDS / f"shard-{number:05d}-of-{len(groups):05d}.arrow", group,
                             self._digest(group)) for number, group in enumerate(groups, 1)]

    def run(self, job: int = 1, num_jobs: int = 1) -> str:
        """Write the shards of one job that are missing, and the index where that was the last; says what there is."""
        mine, done = self.shards[job - 1::num_jobs], 0
        if not mine:
            return (f"{self.packed}: job {job} of {num_jobs}: nothing to do, because {self.source} is work for "
                    f"{len(self.shards)} jobs (--shard_mb)")
        for shard in mine:
            found = state(shard.path, shard.digest, with_tokens=True)
            if found == "whole":
                continue
            if found in ("cut", "stale"):
                why = {"cut": "is cut or damaged", "stale": "was made from other data, tokenizer or prompt"}[found]
                logger.info("%s: %s: it is made again", shard.path, why)
            (self.packed / MARKER).unlink(missing_ok=True)  # its places are those of the old shards
            write_shard(shard.path, self._rows(shard), shard.digest, len(shard.utterances))
            done += 1
        told = f"job {job} of {num_jobs}: {len(mine)} shards, {done} written, {len(mine) - done} there already"
        waiting = [shard.path for shard in self.shards if state(shard.path, shard.digest) != "whole"]
        if waiting:
            return (f"{self.packed}: {told}; {len(waiting)} of {len(self.shards)} are still to be written by other "
                    f"jobs, the first is {waiting[0].name}; the last one writes the index")
        self._finish()
        return (f"{self.packed}: {told}; complete: {len(self.data)} utterances in {len(self.shards)} shards, "
                f"{sum(shard.path.stat().st_size for shard in self.shards) / 1e9:.2f} GB")

    def _finish(self) -> None:
        """Index, copies of the side tables, marker; nothing of another plan stays."""
        wanted = {"settings": self.settings, "tables": self.tables, "shard_digests": [s.digest for s in self.shards]}
        before = read_json(self.packed / MARKER)
        index, files = self.packed / INDEX, list(made_from.side_tables(self.source))
        if (all(before.get(key) == value for key, value in wanted.items()) and index.is_file()
                and before.get("index_digest") == contents_digest(index)
                and all((self.packed / file.name).is_file() for file in files)):
            return
        turns = write_index(index, [shard.path for shard in self.shards])
        for file in files:
            with atomic_path(self.packed / file.name) as temporary:
                shutil.copyfile(file, temporary)
        for copy in set(made_from.side_tables(self.packed)) - {self.packed / file.name for file in files}:
            copy.unlink()
        kept = {shard.path.name for shard in self.shards}
        for stranger in (self.packed / SHARDS).glob("shard-*.arrow"):
            if stranger.name not in kept:
                stranger.unlink()
        with atomic_write(self.packed / MARKER) as file:
            json.dump({**wanted, "source": os.path.relpath(self.source.resolve(), self.packed.resolve()),
                       "utterances": len(self.data), "index_bytes": index.stat().st_size,
                       "index_digest": contents_digest(index), "turns": turns,
                       "shards": [[shard.path.name, shard.path.stat().st_size] for shard in self.shards]}, file)

    def _rows(self, shard: Shard) -> Iterator[Row]:
        """Tokenised, with their audio. Raises DataError that lists the utterances which cannot be packed."""
        bad = []
        bar = progress_bar(f"pack {shard.path.name}", total=len(shard.utterances), unit="utt")
        for utterance in shard.utterances:
            try:
                row = self._row(utterance)
            except (AudioError, ConfigError) as error:
                bad.append(f"  {utterance.utt_id}: {' '.join(str(error).split())}")
            else:
                if not bad:
                    yield row
            bar.update(1)
        bar.close()
        if bad:
            raise DataError("\n".join([
                f"{self.source}: {len(bad)} utterances of {shard.path.name} cannot be packed:", *islice(bad, _SHOWN),
                *[f"  ... and {len(bad) - _SHOWN} more"] * (len(bad) > _SHOWN), "mend them, or leave them out: "
                f"`{remedy_command('fix_data_dir.sh', self.source, '--remove')} FILE-WITH-THEIR-IDS`"]))

    def _row(self, utterance: Utterance) -> Row:
        ids = self.prompt.split(utterance.text, self.prompt.instruction_of(utterance.utt_id))
        reply = self.continuations.get(utterance.utt_id)
        response = None if reply is None else np.asarray(self.prompt.response(reply), np.int32)
        parts = (np.asarray(part, np.int32) for part in (ids.prefix, ids.input, ids.suffix))
        return Row(utterance.utt_id, utterance.text, utterance.duration, *parts, response, encoded(utterance.audio))

    def _groups(self, shard_bytes: int) -> Iterator[list[Utterance]]:
        """Stretches of about so many bytes of audio."""
        group, size = [], 0
        for utterance in self.data:
            audio, known = utterance.audio, self._state(utterance.audio.path)
            is_file = not audio.start and audio.end is None and file_of(audio.path) == audio.path
            more = known[0] if is_file and known else utterance.duration * CUT_BYTES_PER_SECOND
            if group and size + more > shard_bytes:
                yield group
                group, size = [], 0
            group.append(utterance)
            size += more
        yield group

    def _digest(self, utterances: list[Utterance]) -> str:
        """Of all that decides what a shard holds."""
        digest = hashlib.sha256(json_digest({**self.settings, "llm": None}).encode())  # a model's folder may move
        for one in utterances:
            made = (one.utt_id, one.text, self.continuations.get(one.utt_id), one.duration, one.audio,
                    self._state(one.audio.path))
            digest.update(repr(made).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def is_packed(folder: str | os.PathLike) -> bool:
    """Whether `folder` is a packed directory, or will be one when its packing is done."""
    return (Path(folder) / MARKER).exists() or (Path(folder) / SHARDS).is_dir()
