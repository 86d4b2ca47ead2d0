"""One test set as stage 4 sees it: utterances with, for every task, an instruction and a reference."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from blspkd.audio import samples as audio
from blspkd.errors import AudioError, ConfigError, DataError
from blspkd.evaluation.cascade import read_transcripts, transcripts_dir
from blspkd.evaluation.derangement import derange
from blspkd.evaluation.transcript_style import TranscriptStyle
from blspkd.evaluation_config import DecodeConfig, TaskConfig
from blspkd.kaldi.data_dir import KaldiDir, Utterance, read_instructions, read_references, read_table
from blspkd.kaldi.parts import Plan, plan_batches, plan_parts
from blspkd.kaldi.sampling import sample

TYPED = ("text", "cascade")  # systems that read instead of listening


@dataclass(frozen=True)
class EvalSet:
    """The utterances of `path` that are evaluated, in utterance order."""

    path: Path
    utterances: dict[str, Utterance]
    instructions: dict[str, dict[str, str]]  # task -> utt_id -> instruction
    references: dict[str, dict[str, str]]  # task -> utt_id -> reference
    sources: dict[str, str]  # chance: utt_id -> the utterance whose speech is heard; empty without that system
    recognised: dict[str, str] = field(default_factory=dict)  # cascade: utt_id -> the recogniser's transcript

    @property
    def name(self) -> str:
        return self.path.name

    @classmethod
    def read(cls, data_dir: str | Path, config: DecodeConfig) -> "EvalSet":
        """Read and check `data_dir` for all of `config`'s tasks and systems.

        A set without transcripts can be used for the systems "speech" and "cascade" alone. Raises DataError
        for a missing or empty reference or instruction, ConfigError for tasks that cannot be.
        """
        path = Path(data_dir)
        tasks = config.tasks_of(path.name)
        if not tasks:
            raise ConfigError(f"tasks: none for {path.name}; conf/decode.yaml must name at least one, e.g. repeat: "
                              "{metrics: [wer]}")
        if config.count == "transcript" and not (path / "text").exists():
            raise DataError(f"{path}/text: missing, and count 'transcript' takes the number of speech tokens from it; "
                            "write it, or decode this set with count 'model'")
        need_text = bool(set(config.systems) & {"text", "chance"}) or (path / "text").exists()
        utterances = KaldiDir.read(path, need_text=need_text).utterances
        if not utterances:
            raise DataError(f"{path}: no utterance in it")
        utterances = draw(utterances, config)
        try:
            transcripts = {utt_id: utterance.text for utt_id, utterance in utterances.items()}
            sources = derange(transcripts, config.seed) if "chance" in config.systems else {}
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        recognised = {}
        if "cascade" in config.systems:
            recognised = read_transcripts(transcripts_dir(config.transcripts, path.name), utterances)
            if config.transcript_style:
                trained = read_table(Path(config.transcript_style) / "text", allow_empty=True)
                style = TranscriptStyle.of(trained.values())
                recognised = style.restyle(recognised)
        return cls(path, utterances, _instructions(path, tasks, utterances), _references(path, tasks, utterances),
                   sources, recognised)

    def heard(self, system: str, utt_id: str) -> str:
        """The utterance whose speech (or, for "text", whose transcript) `system` gets in the place of `utt_id`."""
        return self.sources[utt_id] if system == "chance" else utt_id

    def typed(self, system: str, utt_id: str) -> str:
        """What `system`, "text" or "cascade", reads in the place of the speech; it may be empty for "cascade"."""
        return self.recognised[utt_id] if system == "cascade" else self.utterances[utt_id].text

    def plan(self, system: str, config: DecodeConfig) -> Plan:
        """All utterance ids: parts (what is saved together) of batches (what is decoded together), longest first."""
        if system in TYPED:
            lengths = {utt_id: float(len(self.typed(system, utt_id))) for utt_id in self.utterances}
            batches = plan_batches(lengths, config.batch_size)
        else:
            seconds = {utt_id: self._duration(self.heard(system, utt_id)) for utt_id in self.utterances}
            batches = plan_batches(seconds, config.batch_size, config.batch_seconds)
        return plan_parts(batches, config.part_size)

    def load(self, utt_id: str, sampling_rate: int) -> np.ndarray:
        """Samples [samples] at `sampling_rate` Hz. Raises AudioError naming the utterance."""
        try:
            return audio.load(self.utterances[utt_id].audio, sampling_rate)
        except AudioError as error:
            raise AudioError(f"{self.path}: utterance {utt_id}: {error}") from None

    def _duration(self, utt_id: str) -> float:
        utterance = self.utterances[utt_id]
        if utterance.duration is not None:
            return utterance.duration
        try:
            return audio.duration(utterance.audio)
        except AudioError as error:
            raise AudioError(f"{self.path}: utterance {utt_id}: {error}") from None


def draw(utterances: dict[str, Utterance], config: DecodeConfig) -> dict[str, Utterance]:
    """A sample of config.max_utterances by config.seed, in utterance order; all of them where that is 0 or too many."""
    return sample(utterances, config.max_utterances, config.seed)


def _instructions(path: Path, tasks: Mapping[str, TaskConfig], utt_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for name, task in tasks.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise ConfigError(f"tasks: '{name}' names files; use letters, digits, - and _")
        if task.instruction:
            found[name] = dict.fromkeys(utt_ids, task.instruction)
            continue
        by_utterance = read_instructions(path)
        if by_utterance is None:
            raise DataError(f"{path}: task {name} has no instruction; set tasks.{name}.instruction in conf/decode.yaml "
                            "or write the file `instruction` (one per utterance)")
        found[name] = {utt_id: _value(by_utterance, utt_id, path / "instruction") for utt_id in utt_ids}
    return found


def _references(path: Path, tasks: Iterable[str], utt_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    found = {}
    for name in tasks:
        file = path / f"text.{name}"
        if not file.exists():
            file = path / "text"
        references = read_references(path, name)
        found[name] = {utt_id: _value(references, utt_id, file) for utt_id in utt_ids}
    return found


def _value(table: Mapping[str, str], utt_id: str, file: Path) -> str:
    value = table.get(utt_id, "")
    if not value.strip():
        raise DataError(f"{file}: nothing for utterance {utt_id}; add its line or remove the utterance from the set")
    return value
