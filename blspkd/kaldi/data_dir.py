"""Reading a Kaldi data directory: `wav.scp`, `text`, `utt2spk`, optional `segments`, `utt2dur`, `reco2channel`.

A recording of several channels needs a choice: the fifth column of `segments`, or a line `<recording> <channel>` in
`reco2channel`, or the argument `channel` for all the rest (channels count from 0).
The rules for the files themselves are in `tables`, the commands that check and change directories in `verbs`.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from blspkd.audio.samples import AudioSource, is_command
from blspkd.errors import DataError
from blspkd.kaldi.tables import (
    read_continuations,
    read_table,
    remedy,
    remedy_command,
    write_continuations,
    write_table,
)

__all__ = ["KaldiDir", "Utterance", "parse_segment", "read_continuations", "read_instructions", "read_references",
           "read_table", "write_continuations", "write_table"]


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance; `text` is "" where the directory has none, `duration` (seconds) None where `utt2dur` has none."""

    utt_id: str
    speaker: str
    text: str
    audio: AudioSource
    duration: float | None


class KaldiDir:
    """A data directory in memory. Iteration gives the utterances, sorted by id; `directory[utt_id]` gives one."""

    def __init__(self, path: str | os.PathLike, utterances: dict[str, Utterance]):
        self.path = Path(path)
        self.utterances = utterances

    @classmethod
    def read(cls, path: str | os.PathLike, *, need_text: bool = True, need_audio: bool = True,
             channel: int | None = None) -> "KaldiDir":
        """Read and cross-check; raises DataError naming file, line and utterance.

        need_text:  `text` must be there and have every utterance; else it is read if it is there.
        need_audio: `wav.scp` must be there and hold files, not commands; else sources may be "" (no recording).
        channel:    for recordings for which the directory itself makes no choice.
        """
        path = Path(path)
        speakers = read_speakers(path)
        texts = read_texts(path, speakers, need_text)
        sources = read_audio(path, speakers, need_audio, channel)
        seconds = read_seconds(path)
        nothing = AudioSource("")
        return cls(path, {
            utt_id: Utterance(utt_id, speaker, texts.get(utt_id, ""), sources.get(utt_id, nothing), seconds.get(utt_id))
            for utt_id, speaker in speakers.items()
        })

    def __len__(self) -> int:
        return len(self.utterances)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self.utterances.values())

    def __contains__(self, utt_id: str) -> bool:
        return utt_id in self.utterances

    def __getitem__(self, utt_id: str) -> Utterance:
        if utt_id not in self.utterances:
            raise DataError(f"{self.path}: there is no utterance {utt_id}")
        return self.utterances[utt_id]


def read_speakers(path: Path) -> dict[str, str]:
    """{utt-id: speaker} of data directory `path`, with at least one utterance."""
    if not path.is_dir():
        raise DataError(f"{path}: there is no such data directory; has stage 1 (data preparation) run?")
    speakers = read_table(path / "utt2spk")
    if not speakers:
        raise DataError(f"{path / 'utt2spk'}: holds no utterance")
    return speakers


def read_texts(path: Path, speakers: Mapping[str, str], need_text: bool = True) -> dict[str, str]:
    """{utt-id: transcript}, of the utterances of `speakers`; {} where there is no `text` and none is needed."""
    if not need_text and not (path / "text").exists():
        return {}
    texts = read_table(path / "text")
    check_same_ids(path, speakers, texts, "text")
    return texts


def read_audio(path: Path, speakers: Mapping[str, str], need_audio: bool = True, channel: int | None = None
               ) -> dict[str, AudioSource]:
    """`read_sources`, of the utterances of `speakers`; {} where there is no `wav.scp` and none is needed."""
    if not need_audio and not (path / "wav.scp").exists():
        return {}
    sources = read_sources(path, need_audio, channel)
    check_same_ids(path, speakers, sources, "segments" if (path / "segments").exists() else "wav.scp")
    return sources


def read_references(data_dir: str | os.PathLike, task: str) -> dict[str, str]:
    """The references of `task`: file `text.<task>`, or the transcripts `text` where there is no such file."""
    path = Path(data_dir) / f"text.{task}"
    return read_table(path if path.exists() else Path(data_dir) / "text")


def read_instructions(data_dir: str | os.PathLike) -> dict[str, str] | None:
    """Instruction by utterance: file `instruction`, or None where there is none."""
    path = Path(data_dir) / "instruction"
    return read_table(path) if path.exists() else None


def parse_segment(value: str) -> tuple[str, float, float | None, int | None]:
    """`<recording> <start> <end> [<channel>]`, seconds, end -1: to the end; ValueError says what is wrong."""
    fields = value.split()
    if len(fields) not in (3, 4):
        raise ValueError(f"expected `<recording> <start> <end> [<channel>]`, found {value!r}")
    start, end = _seconds(fields[1]), _seconds(fields[2])
    last = None if end == -1 else end
    if not (0 <= start < float("inf")) or not (last is None or start < last < float("inf")):
        raise ValueError(f"from {fields[1]} s to {fields[2]} s is not a stretch of time")
    return fields[0], start, last, parse_channel(fields[3]) if len(fields) == 4 else None


def parse_channel(value: str) -> int:
    """A channel number counted from 0; ValueError says what is wrong."""
    if not (value.isascii() and value.isdigit()):
        raise ValueError(f"channel {value!r} is not a number counted from 0")
    return int(value)


def _seconds(value: str) -> float:
    """As other tools would read it: Python alone takes `1_0` and the digits of all scripts."""
    if "_" in value or not value.isascii():
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def parse_duration(value: str) -> float:
    """Seconds above 0; ValueError says what is wrong."""
    seconds = _seconds(value)
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{value!r} is not a number of seconds above 0")
    return seconds


def read_sources(path: Path, need_audio: bool = True, channel: int | None = None) -> dict[str, AudioSource]:
    """{utt-id: where its samples are}, from wav.scp, segments and reco2channel; arguments as for `KaldiDir.read`."""
    recordings = read_table(path / "wav.scp")
    if need_audio:
        commands = [name for name, entry in recordings.items() if is_command(entry)]
        if commands:
            raise DataError(
                f"{path / 'wav.scp'}: {len(commands)} entries are commands, the first is that of {commands[0]}; they "
                "run only with consent: stage 1 with --allow_pipes true, or "
                f"`{remedy_command('data_dir.sh', 'materialize', path)} DUMP_DIR --allow_pipes true`")
    chosen: Mapping[str, int] = {}
    if (path / "reco2channel").exists():
        chosen = _parse(path / "reco2channel", parse_channel)
    if not (path / "segments").exists():
        return {name: AudioSource(entry, 0.0, None, chosen.get(name, channel)) for name, entry in recordings.items()}
    sources = {}
    for utt_id, (name, start, end, own) in _parse(path / "segments", parse_segment).items():
        if name not in recordings:
            raise DataError(f"{path / 'segments'}: {utt_id}: recording {name} is not in wav.scp\n{remedy(path)}")
        sources[utt_id] = AudioSource(recordings[name], start, end, chosen.get(name, channel) if own is None else own)
    return sources


def read_seconds(path: Path) -> dict[str, float]:
    """{utt-id: its duration}, as far as `utt2dur` has it."""
    return _parse(path / "utt2dur", parse_duration) if (path / "utt2dur").exists() else {}


def _parse(path: Path, parse) -> dict:
    """A table whose values are parsed; DataError names file and key."""
    rows = {}
    for key, value in read_table(path).items():
        try:
            rows[key] = parse(value)
        except ValueError as error:
            raise DataError(f"{path}: {key}: {error}\n{remedy(path.parent)}") from None
    return rows


def check_same_ids(path: Path, speakers: Mapping[str, str], rows: Mapping, name: str) -> None:
    """Raise DataError unless the table `name` of directory `path`, `rows`, has just the utterances of utt2spk."""
    for ours, theirs, here, there in ((speakers, rows, "utt2spk", name), (rows, speakers, name, "utt2spk")):
        missing = [utt_id for utt_id in ours if utt_id not in theirs]
        if missing:
            raise DataError(f"{path}: {len(missing)} of the ids in {here} are not in {there}, the first is "
                            f"{missing[0]}\n{remedy(path)}")
