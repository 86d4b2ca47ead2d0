"""A packed directory as a training reads it: columns of numbers at the start, an Example when a batch needs it."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from blspkd.audio.archive import close_shards, piece_of, read_bytes
from blspkd.audio.samples import AudioSource
from blspkd.config import DataConfig
from blspkd.data.example_columns import Columns, LazyExamples
from blspkd.data.examples import Example, Selection, check_some_left
from blspkd.data.packed import made_from
from blspkd.data.packed.index import TOKEN_BYTES, Index, read_index
from blspkd.data.packed.pack import INDEX, MARKER, SHARDS
from blspkd.data.packed.shard import checksum, damaged_row, open_shard
from blspkd.data.prompts import Prompt
from blspkd.errors import DataError
from blspkd.files import contents_digest, read_json
from blspkd.kaldi.data_dir import Utterance


class PackedDir:
    """The directory, mapped. `directory[utt_id]` gives an utterance, for data operations; its speaker is not known."""

    def __init__(self, path: str | Path):
        """Raises DataError where it is not complete or a file is cut."""
        self.path = Path(path)
        close_shards()
        record = read_json(self.path / MARKER)
        settings, source = record.get("settings"), record.get("source")  # another version may have others
        self.settings: Mapping = settings if isinstance(settings, dict) else {}
        self.source = (self.path.resolve() / source).resolve() if isinstance(source, str) else Path("DIR")
        self.command = made_from.again(self.source, self.path, self.settings.get("llm", "LLM"))
        if not record:
            raise DataError(f"{self.path}: its packing is not complete; run the same command again: `{self.command}`")
        if self.settings.get("format") != made_from.FORMAT:
            raise DataError(f"{self.path}: was packed by another version of this toolkit; pack it again: "
                            f"`{self.command}`")
        self.tables: Mapping[str, list] = record["tables"]
        self.turns = [tuple(np.array(part, np.int32) for part in turn) for turn in record["turns"]]
        self.shards = [str(self.path / SHARDS / name) for name, _ in record["shards"]]
        self._check_sizes({**dict(zip(self.shards, (size for _, size in record["shards"]), strict=True)),
                           str(self.path / INDEX): record["index_bytes"]})
        if contents_digest(self.path / INDEX) != record["index_digest"]:
            raise DataError(f"{self.path / INDEX}: is damaged; pack the directory again, which writes the index anew "
                            f"from the shards: `{self.command}`")
        self.index: Index = read_index(self.path / INDEX)

    def __reduce__(self):
        return PackedDir, (self.path,)  # another process maps it by itself

    def __len__(self) -> int:
        return len(self.index.shard)

    def __getitem__(self, utt_id: str) -> Utterance:
        if utt_id not in self._rows:
            raise DataError(f"{self.path}: there is no utterance {utt_id}")
        row = self._rows[utt_id]
        return Utterance(utt_id, "", self.text(row), self.audio(row), float(self.index.duration[row]))

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {utt_id: row for row, utt_id in enumerate(self.index.utt_id.to_pylist())}

    def check(self, prompt: Prompt, llm: str) -> None:
        """Make sure that its token ids are those of this prompt, and that its source is as it was, if it is there.

        Raises DataError that names what has changed, and how to pack again.
        """
        made_from.check_tables(self.source, self.path, self.tables, llm)
        command = made_from.again(self.source, self.path, llm)
        made_from.check_prompt(self.path, self.settings["prompt"], prompt.config, command)
        utt_id, text = self.index.utt_id[0].as_py(), self.text(0)
        found = prompt.split(text, prompt.instruction_of(utt_id)).input  # other versions of a library may differ, too
        if (made_from.tokenizer_digest(prompt.tokenizer) != self.settings["tokenizer"]
                or found != self.tokens(0, "input").tolist()):
            raise DataError(f"{self.path}: was packed with the tokenizer of {self.settings['llm']}, and that of {llm} "
                            f"is another one or has changed; pack it again: `{command}`")

    def select(self, config: DataConfig, with_continuations: bool) -> Selection:
        """What `make_examples` gives for the data directory; without continuations responses are empty."""
        index, reasons = self.index, {}
        prefixes, suffixes = (np.array([len(turn[i]) for turn in self.turns]) for i in (0, 1))
        lengths = prefixes[index.turn] + index.n_input + suffixes[index.turn]
        if with_continuations:
            if not (index.n_response >= 0).any():
                raise DataError(f"{self.path}: was packed without continuations; write them (stage 2), then pack it "
                                f"again: `{self.command}`")
            reasons["without a continuation"] = index.n_response < 0
            lengths += np.maximum(index.n_response, 0)
        reasons[f"shorter than {config.min_duration} s"] = index.duration < config.min_duration
        reasons[f"longer than {config.max_duration} s"] = index.duration > config.max_duration
        reasons[f"longer than {config.max_tokens} LLM tokens"] = lengths > config.max_tokens
        selection, left = Selection(), np.ones(len(self), dtype=bool)
        for reason, holds in reasons.items():
            if number := int((left & holds).sum()):
                selection.left_out[reason] = number
            left &= ~holds
        rows = None if left.all() else np.flatnonzero(left)
        selection.examples = PackedExamples(self, rows, lengths if rows is None else lengths[rows], with_continuations)
        check_some_left(self.path, selection)
        return selection

    def tokens(self, row: int, name: str) -> np.ndarray:
        """int32 [n] token ids: "input" or "response"; it may be written to."""
        number = max(0, int(getattr(self.index, f"n_{name}")[row]))
        data = self._bytes(row, name, TOKEN_BYTES * number)
        if checksum(data) != int(getattr(self.index, f"{name}_sum")[row]):
            raise self.damaged(self.shards[self.index.shard[row]], self.index.utt_id[row].as_py())
        return np.frombuffer(data, np.int32).copy()

    def damaged(self, shard: str, utt_id: str) -> DataError:
        return DataError(f"{shard}: the tokens of utterance {utt_id} are damaged; pack the directory again, which "
                         f"remakes this file alone: `{self.command}`")

    def text(self, row: int) -> str:
        return self._bytes(row, "text", int(self.index.text_bytes[row])).decode()

    def audio(self, row: int) -> AudioSource:
        index = self.index
        return AudioSource(piece_of(self.shards[index.shard[row]], int(index.audio_at[row]),
                                    int(index.audio_bytes[row])))

    def _bytes(self, row: int, name: str, number: int) -> bytes:
        shard = self.shards[self.index.shard[row]]
        try:
            data = read_bytes(shard, int(getattr(self.index, f"{name}_at")[row]), number)
        except FileNotFoundError:
            data = None
        if data is None or len(data) < number:
            raise DataError(f"{shard}: is {'not there' if data is None else 'cut'}; pack the directory again, which "
                            f"remakes this file alone: `{self.command}`")
        return data

    def _check_sizes(self, sizes: Mapping[str, int]) -> None:
        for file, size in sizes.items():
            there = Path(file).stat().st_size if Path(file).is_file() else None
            if there != size:
                is_now = "is not there" if there is None else f"has {there} bytes, and {size} were written"
                raise DataError(f"{file}: {is_now}; pack the directory again, which remakes this file alone: "
                                f"`{self.command}`")


@dataclass(eq=False)
class PackedExamples(LazyExamples):
    """Utterances of a packed directory, in its order."""

    data: PackedDir
    rows: np.ndarray | None  # [n] of the index; None: all
    lengths: np.ndarray  # [n] LLM positions
    with_continuations: bool
    with_prompt: bool = True  # False: the transcripts' tokens alone

    @property
    def columns(self) -> Columns:
        durations = self.data.index.duration
        return Columns(self.lengths, durations if self.rows is None else durations[self.rows],
                       np.broadcast_to(1.0, len(self.lengths)))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Example:
        place = range(len(self))[operator.index(index)]
        row = place if self.rows is None else int(self.rows[place])
        data, nothing = self.data, np.zeros(0, dtype=np.int32)
        prefix, suffix = data.turns[data.index.turn[row]] if self.with_prompt else (nothing, nothing)
        response = data.tokens(row, "response") if self.with_continuations and self.with_prompt else nothing
        return Example(data.index.utt_id[row].as_py(), data.audio(row), float(data.index.duration[row]), prefix,
                       data.tokens(row, "input"), suffix, response)

    def token_counts(self) -> np.ndarray:
        chosen, counts, done = None, np.zeros(0, dtype=np.int64), 0
        if self.rows is not None:
            chosen = np.zeros(len(self.data), dtype=bool)
            chosen[self.rows] = True
        for shard in self.data.shards:
            with open_shard(Path(shard)) as (_, batches):
                for batch in batches:
                    if (row := damaged_row(batch, "input")) is not None:
                        raise self.data.damaged(shard, batch.column("utt_id")[row].as_py())
                    column = batch.column("input")
                    values = column.values.to_numpy()
                    if chosen is not None:
                        values = values[np.repeat(chosen[done:done + len(column)], np.diff(column.offsets.to_numpy()))]
                    found = np.bincount(values, minlength=len(counts))
                    found[:len(counts)] += counts
                    counts, done = found, done + len(column)
        return counts

    def prefixes(self) -> set[bytes]:
        if not self.with_prompt:
            return {b""}
        turns = self.data.index.turn
        return {self.data.turns[turn][0].tobytes() for turn in np.unique(turns if self.rows is None else
                                                                        turns[self.rows])}

    def without_prompt(self) -> "PackedExamples":
        counts = self.data.index.n_input if self.rows is None else self.data.index.n_input[self.rows]
        return replace(self, lengths=counts.astype(np.int64), with_prompt=False)
