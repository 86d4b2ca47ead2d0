"""Choose utterances of a data directory, as the options of Kaldi's utils/subset_data_dir.sh do, and describe it."""

import os
import random
import statistics
from dataclasses import dataclass
from pathlib import Path

from blspkd.errors import DataError
from blspkd.kaldi.data_dir import read_audio, read_seconds, read_speakers, read_texts
from blspkd.kaldi.files import SEVERAL_LINES, Follows, data_files, known_file
from blspkd.kaldi.tables import key_problem, open_table, read_table, remedy_command
from blspkd.kaldi.word_times import read_word_times


def spread(path: str | os.PathLike, number: int) -> list[str]:
    """`number` utterances spread evenly over the directory (what Kaldi does without an option)."""
    ids = _enough(path, number)
    return [ids[index * len(ids) // number] for index in range(number)]


def first(path: str | os.PathLike, number: int) -> list[str]:
    """The first `number` utterances."""
    return _enough(path, number)[:number]


def last(path: str | os.PathLike, number: int) -> list[str]:
    """The last `number` utterances."""
    ids = _enough(path, number)
    return ids[len(ids) - number:]


def shortest(path: str | os.PathLike, number: int) -> list[str]:
    """The `number` shortest utterances by utt2dur; of equally long ones the first."""
    ids = _enough(path, number)
    file = Path(path) / "utt2dur"
    if not file.exists():
        raise DataError(f"{file}: is not there; write it with `{remedy_command('get_utt2dur.sh', path)}`")
    seconds = read_table(file)
    missing = [utt_id for utt_id in ids if utt_id not in seconds]
    if missing:
        raise DataError(f"{file}: lacks {missing[0]}; write it with `{remedy_command('get_utt2dur.sh', path)}`")
    return sorted(ids, key=lambda utt_id: float(seconds[utt_id]))[:number]


def per_speaker(path: str | os.PathLike, number: int) -> list[str]:
    """`number` utterances of each speaker, spread evenly, or all of a speaker with fewer."""
    chosen = []
    for ids in _by_speaker(path).values():
        count = min(_positive(number), len(ids))
        chosen += [ids[index * len(ids) // count] for index in range(count)]
    return chosen


def speakers(path: str | os.PathLike, number: int, seed: int = 0) -> list[str]:
    """All utterances of as many speakers, drawn at random, as make up at least `number` utterances."""
    _enough(path, number)
    groups = list(_by_speaker(path).values())
    random.Random(seed).shuffle(groups)
    chosen: list[str] = []
    for ids in groups:
        if len(chosen) >= number:
            break
        chosen += ids
    return chosen


def of_speakers(path: str | os.PathLike, list_file: str | os.PathLike) -> list[str]:
    """The utterances of the speakers that stand first on the lines of `list_file`; those not there are ignored."""
    wanted = set(read_ids(list_file))
    return [utt_id for speaker, ids in _by_speaker(path).items() if speaker in wanted for utt_id in ids]


def of_list(path: str | os.PathLike, list_file: str | os.PathLike) -> list[str]:
    """The utterances that stand first on the lines of `list_file`; those not in the directory are ignored."""
    wanted = set(read_ids(list_file))
    return [utt_id for utt_id in read_table(Path(path) / "utt2spk") if utt_id in wanted]


def read_ids(list_file: str | os.PathLike) -> list[str]:
    """The first field of every line of `list_file`: any table, or a plain list of ids. Raises DataError."""
    found = []
    with open_table(list_file) as lines:
        for number, line in enumerate(lines, 1):
            fields = line.split(None, 1)
            if not fields:
                continue
            try:
                key = fields[0].decode()
                problem = key_problem(key)
            except UnicodeDecodeError:
                problem = "the id is not valid UTF-8"
            if problem:
                raise DataError(f"{list_file}:{number}: {problem}; mend the line")
            found.append(key)
    return found


@dataclass(frozen=True)
class Stats:
    """Figures of a data directory; the durations (seconds) are None without a complete utt2dur."""

    utterances: int
    speakers: int
    recordings: int
    words: int
    distinct_words: int
    characters: int
    total_duration: float | None
    min_duration: float | None
    median_duration: float | None
    max_duration: float | None
    files: dict[str, int]  # further tables by utterance, and how many utterances they cover

    def __str__(self) -> str:
        rows = [("utterances", self.utterances), ("speakers", self.speakers), ("recordings", self.recordings),
                ("words", self.words), ("distinct words", self.distinct_words), ("characters", self.characters)]
        if self.total_duration is None:
            rows.append(("hours", "unknown, run the verb durations"))
        else:
            rows += [("hours", f"{self.total_duration / 3600:.2f}"), ("shortest", f"{self.min_duration:.2f} s"),
                     ("median", f"{self.median_duration:.2f} s"), ("longest", f"{self.max_duration:.2f} s")]
        rows += [(name, f"{count} utterances") for name, count in self.files.items()]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def stats(path: str | os.PathLike) -> Stats:
    """Figures of data directory `path`; words are what blanks separate. Raises DataError if it is not valid."""
    path = Path(path)  # a table at a time: a million utterances are not to fill the memory
    speakers = read_speakers(path)
    words, distinct, characters = 0, set(), 0
    for text in read_texts(path, speakers, need_text=False).values():
        found = text.split()
        words += len(found)
        distinct.update(found)
        characters += len(text)
    recordings = len({source.path for source in read_audio(path, speakers, need_audio=False).values()})
    durations = read_seconds(path)
    seconds = [durations[utt_id] for utt_id in speakers if utt_id in durations]
    complete = len(seconds) == len(speakers)
    files = {file.name: len(read_word_times(file) if file.name in SEVERAL_LINES else read_table(file))
             for file in data_files(path)
             if known_file(file.name) is Follows.UTTERANCES and file.name not in ("text", "utt2spk", "segments")}
    return Stats(len(speakers), len(set(speakers.values())), recordings, words, len(distinct), characters,
                 sum(seconds) if complete else None, min(seconds) if complete else None,
                 statistics.median(seconds) if complete else None, max(seconds) if complete else None, files)


def _enough(path: str | os.PathLike, number: int) -> list[str]:
    ids = list(read_table(Path(path) / "utt2spk"))
    if _positive(number) > len(ids):
        raise DataError(f"{path}: {number} utterances are asked for, but there are only {len(ids)}; ask for fewer")
    return ids


def _positive(number: int) -> int:
    if number < 1:
        raise DataError(f"{number} utterances are asked for; ask for at least one")
    return number


def _by_speaker(path: str | os.PathLike) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for utt_id, speaker in read_table(Path(path) / "utt2spk").items():
        groups.setdefault(speaker, []).append(utt_id)
    return groups
