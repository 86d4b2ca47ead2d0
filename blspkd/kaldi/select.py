"""Choose utterances of a data directory, as the options of Kaldi's utils/subset_data_dir.sh do."""

import os
import random
from pathlib import Path

from blspkd.errors import DataError
from blspkd.kaldi.tables import key_problem, open_table, read_table, remedy_command


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
