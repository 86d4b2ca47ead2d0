"""One test set as stage 4 sees it: utterances with, for every task, an instruction and a reference."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from blspkd.errors import ConfigError, DataError
from blspkd.evaluation.cascade import Recognised
from blspkd.evaluation.derangement import derange
from blspkd.evaluation.recordings import RECORDING_FILES, Recordings
from blspkd.evaluation_config import DecodeConfig, TaskConfig
from blspkd.files import contents_digests
from blspkd.kaldi.data_dir import KaldiDir, read_instructions, read_references
from blspkd.kaldi.parts import Plan, plan_batches, plan_parts
from blspkd.kaldi.sampling import sample

TYPED = ("text", "cascade")  # systems that read instead of listening


@dataclass(frozen=True)
class EvalSet(Recordings):
    """The utterances of `path` that are evaluated, in utterance order."""

    tasks: dict[str, TaskConfig]
    instructions: dict[str, dict[str, str]]  # task -> utt_id -> instruction
    references: dict[str, dict[str, str]]  # task -> utt_id -> reference
    sources: dict[str, str]  # chance: utt_id -> the utterance whose speech is heard; empty without that system
    recognised: Recognised
    files: dict[str, dict[str, str]]  # task -> digests of the files that it is read from, but for those of `recognised`

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
        data = KaldiDir.read(path, need_text=need_text)
        instructions = None if all(task.instruction for task in tasks.values()) else read_instructions(path)
        references = {task: read_references(path, task) for task in tasks}
        utterances = sample(data.utterances, config.max_utterances, config.seed)
        try:
            transcripts = {utt_id: utterance.text for utt_id, utterance in utterances.items()}
            sources = derange(transcripts, config.seed) if "chance" in config.systems else {}
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        recognised = Recognised.read(config, path.name, utterances)
        shared = contents_digests(path / name for name in (*RECORDING_FILES, "text", "instruction"))
        return cls(path, utterances, tasks, _instructions(path, tasks, instructions, utterances),
                   {task: _values(path / f"text.{task}", rows, utterances) for task, rows in references.items()},
                   sources, recognised, {task: shared | contents_digests([path / f"text.{task}"]) for task in tasks})

    def heard(self, system: str, utt_id: str) -> str:
        """The utterance whose speech (or, for "text", whose transcript) `system` gets in the place of `utt_id`."""
        return self.sources[utt_id] if system == "chance" else utt_id

    def typed(self, system: str, utt_id: str) -> str:
        """What `system`, "text" or "cascade", reads in the place of the speech; it may be empty for "cascade"."""
        return self.recognised.texts[utt_id] if system == "cascade" else self.utterances[utt_id].text

    def plan(self, system: str, config: DecodeConfig) -> Plan:
        """All utterance ids: parts (what is saved together) of batches (what is decoded together), longest first."""
        if system in TYPED:
            lengths = {utt_id: float(len(self.typed(system, utt_id))) for utt_id in self.utterances}
            batches = plan_batches(lengths, config.batch_size)
        else:
            seconds = {utt_id: self.seconds(self.heard(system, utt_id)) for utt_id in self.utterances}
            batches = plan_batches(seconds, config.batch_size, config.batch_seconds)
        return plan_parts(batches, config.part_size)


def _instructions(path: Path, tasks: Mapping[str, TaskConfig], by_utterance: Mapping[str, str] | None,
                  utt_ids: Iterable[str]) -> dict[str, dict[str, str]]:
    """Of every task, its own or those of the file `instruction`, `by_utterance`."""
    found: dict[str, dict[str, str]] = {}
    for name, task in tasks.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise ConfigError(f"tasks: '{name}' names files; use letters, digits, - and _")
        if task.instruction:
            found[name] = dict.fromkeys(utt_ids, task.instruction)
        elif by_utterance is None:
            raise DataError(f"{path}: task {name} has no instruction; set tasks.{name}.instruction in conf/decode.yaml "
                            "or write the file `instruction` (one per utterance)")
        else:
            found[name] = _values(path / "instruction", by_utterance, utt_ids)
    return found


def _values(file: Path, rows: Mapping[str, str], utt_ids: Iterable[str]) -> dict[str, str]:
    """The rows of `utt_ids`. Raises DataError, naming `file`, for one that is missing or empty."""
    empty = [utt_id for utt_id in utt_ids if not rows.get(utt_id, "").strip()]
    if empty:
        raise DataError(f"{file}: nothing for utterance {empty[0]}; add its line or remove the utterance from the set")
    return {utt_id: rows[utt_id] for utt_id in utt_ids}
