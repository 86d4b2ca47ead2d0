"""What has to open the recordings of a data directory: their durations, and commands in wav.scp made into files."""

import hashlib
import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from blspkd.audio.samples import AudioSource, copy_to_wav, durations, is_command, load, size_and_date
from blspkd.errors import AudioError, DataError
from blspkd.files import atomic_path, scratch_folder, text_digest
from blspkd.kaldi.data_dir import parse_channel, parse_duration, read_sources
from blspkd.kaldi.fix import back_up
from blspkd.kaldi.tables import read_table, remedy_command, write_table
from blspkd.progress import progress, progress_bar

BAD_AUDIO = ".bad_audio"  # `<utt-id> <what is wrong>`, written by `write_durations` if any are bad
MADE_FROM = ".utt2dur_from"  # `<utt-id> <digest>` of what each row of utt2dur was made from
SLOW_SEGMENT = 0.1  # seconds to read an utterance, from which on that is worth a warning
SHORTEST = 1e-4  # seconds in utt2dur, which has four decimals
_SHOWN = 50
_TASK_FILES = 32  # recordings in one task of a process
_FILES_PER_PROCESS = 500  # starting a process takes as long as opening about as many headers

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
Task = list[tuple[list[str], list[AudioSource]]]  # for each recording: utterances, their sources


def write_durations(path: str | os.PathLike, num_jobs: int = 1) -> bool:
    """Write `utt2dur`, in `num_jobs` processes; False if it is complete and up to date.

    Opened are the recordings that are new or have changed, by `.utt2dur_from`: size and date, and what of them is used.
    Raises AudioError that lists the utterances whose audio cannot be used, up to 50 of them, and writes all of them to
    `.bad_audio`; then utt2dur is not written.
    """
    path = Path(path)
    measured = measure_durations(path, num_jobs)
    if measured.is_current:
        return False
    if measured.bad:
        write_table(path / BAD_AUDIO, measured.bad)
        raise bad_audio(path, len(measured.bad), len(measured.made_from), sorted(measured.bad.items()))
    write_table(path / "utt2dur", measured.seconds)
    write_table(path / MADE_FROM, measured.made_from)  # last: a run that is killed before measures again
    (path / BAD_AUDIO).unlink(missing_ok=True)
    return True


@dataclass(frozen=True)
class Measured:
    """The durations of a data directory's utterances."""

    seconds: dict[str, str]  # utterance -> as in utt2dur
    made_from: dict[str, str]  # utterance -> digest, of all
    bad: dict[str, str]  # utterance -> what is wrong with its audio
    is_current: bool  # utt2dur says it already


def measure_durations(path: Path, num_jobs: int = 1, title: str = "") -> Measured:
    """Open the recordings of directory `path` that utt2dur does not know; writes nothing."""
    sources = read_sources(path)
    made_from = _made_from(sources)
    seconds, others = _known(path, made_from)
    recordings: dict[str, tuple[list[str], list[AudioSource]]] = {}
    for utt_id, source in sources.items():
        if utt_id not in seconds:
            ids, parts = recordings.setdefault(source.path, ([], []))
            ids.append(utt_id)
            parts.append(source)
    if not recordings and not others:
        return Measured(seconds, made_from, {}, is_current=True)
    found: dict[str, float | AudioError] = {}
    bar = progress_bar(title or f"durations {path}", total=len(recordings), unit="file")
    try:
        for results, opened in map_tasks(_open_task, _tasks(recordings),
                                         min(num_jobs, len(recordings) // _FILES_PER_PROCESS), path):
            found.update(results)
            bar.update(opened)
    finally:
        bar.close()
    bad = {utt_id: " ".join(str(result).split()) for utt_id, result in found.items() if isinstance(result, AudioError)}
    if not bad:
        _warn_of_slow_segments(path, sources)
    seconds.update((utt_id, f"{max(result, SHORTEST):.4f}") for utt_id, result in found.items() if utt_id not in bad)
    return Measured(seconds, made_from, bad, is_current=False)


def bad_audio(path: Path, number: int, total: int, bad: Iterable[tuple[str, str]]) -> AudioError:
    """The error that lists the first of `number` utterances of `total` whose audio cannot be used."""
    listed = [f"  {utt_id}: {what}" for utt_id, what in islice(bad, _SHOWN)]
    more = [f"  ... and {number - _SHOWN} more"] if number > _SHOWN else []
    return AudioError("\n".join([
        f"{path}: the audio of {number} of {total} utterances cannot be used (all: {path / BAD_AUDIO})",
        *listed, *more, "mend them, or leave them out:",
        f"  {remedy_command('fix_data_dir.sh', path, '--remove', path / BAD_AUDIO)}"]))


def _warn_of_slow_segments(path: Path, sources: Mapping[str, AudioSource]) -> None:
    """mp3 with something between its frames is walked through from its beginning for every piece, in every epoch."""
    pieces = [source for source in sources.values() if source.end is not None and source.path.endswith(".mp3")]
    if not pieces:
        return
    last = max(pieces, key=lambda source: source.start)
    load(last)  # the first time, every mp3 is walked through
    start = time.perf_counter()
    load(last)
    slowest = time.perf_counter() - start
    if slowest > SLOW_SEGMENT:
        logger.warning("%s: %d utterances are cut out of mp3 recordings, and reading one takes up to %.2f s: up to "
                       "%.0f min in every epoch. Convert the recordings to flac (ffmpeg -i NAME.mp3 NAME.flac) and "
                       "name those in wav.scp", path, len(pieces), slowest, max(1, len(pieces) * slowest / 60))


def choose_channel(path: str | os.PathLike, channel: int) -> None:
    """Use `channel` (counted from 0) of every recording of data directory `path`: writes `reco2channel`."""
    recordings = read_table(Path(path) / "wav.scp")
    write_table(Path(path) / "reco2channel", dict.fromkeys(recordings, str(parse_channel(str(channel)))))


def materialize(path: str | os.PathLike, dump_dir: str | os.PathLike, *, allow_pipes: bool = False,
                num_jobs: int = 1) -> int:
    """Run the commands of `wav.scp` into `dump_dir`/wav/*.wav and put these files in their place; returns how many.

    A file's name holds a hash of its command: what an interrupted run has finished is used again, what another command
    made is not. wav.scp (backup in `.backup/`) changes when all commands have succeeded, and only then.
    Raises DataError without the consent `allow_pipes`, and AudioError that names the recordings that failed.
    """
    path, folder = Path(path), Path(dump_dir) / "wav"
    entries = read_table(path / "wav.scp")
    commands = {name: entry for name, entry in entries.items() if is_command(entry)}
    if not commands:
        return 0
    wrong = [name for name, entry in commands.items() if not entry.endswith("|") or not entry[:-1].strip()]
    if wrong:
        raise DataError(f"{path / 'wav.scp'}: {wrong[0]}: {entries[wrong[0]]!r} gives no audio; expected a file or "
                        "`command |`")
    if not allow_pipes:
        name, entry = next(iter(commands.items()))
        raise DataError(f"{path / 'wav.scp'}: {len(commands)} entries are commands, the first is {name}: {entry}; "
                        "if you trust all of them, allow this shell to run them: --allow_pipes true")
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}-{text_digest(entry)[:8]}.wav"
             for name, entry in commands.items()}
    failures = []
    with ThreadPoolExecutor(max(1, num_jobs)) as pool:
        jobs = {pool.submit(_run_into, commands[name][:-1], files[name]): name for name in commands
                if not files[name].exists()}
        try:
            for job in progress(as_completed(jobs), f"materialize {path}", total=len(jobs), unit="file"):
                if job.exception() is not None:
                    if not isinstance(job.exception(), (AudioError, OSError)):
                        raise job.exception()
                    failures.append(f"  {jobs[job]}: {job.exception()}")
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    if failures:
        head = f"{path / 'wav.scp'}: {len(failures)} of {len(commands)} commands failed, the others are done"
        raise AudioError("\n".join([head, *sorted(failures)[:_SHOWN], "mend them and start the same command again"]))
    back_up(path / "wav.scp")
    write_table(path / "wav.scp", entries | {name: str(file) for name, file in files.items()})
    return len(commands)


def _run_into(command: str, destination: Path) -> None:
    """Run `command`, to which the user has consented, and write what it prints as a wav file."""
    with scratch_folder(destination) as scratch:
        output, errors = scratch / "output", scratch / "errors"
        with open(output, "wb") as stdout, open(errors, "wb") as stderr:
            status = subprocess.run(["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, stdout=stdout,
                                    stderr=stderr, check=False).returncode
        said = errors.read_bytes()[-500:].decode("utf-8", "replace").strip()
        if status:
            raise AudioError(f"`{command.strip()}` ended with status {status}: {said or 'it said nothing'}")
        try:
            with atomic_path(destination) as temporary:
                copy_to_wav(str(output), temporary)
        except AudioError as error:
            reason = str(error).removeprefix(f"{output}: ") + (f"; it said: {said}" if said else "")
            raise AudioError(f"the output of `{command.strip()}` {reason}") from None


def _made_from(sources: dict[str, AudioSource]) -> dict[str, str]:
    """{utt-id: digest of its source and of its file's size and date}"""
    state = lru_cache(maxsize=1024)(size_and_date)  # neighbours are in one file
    digests = {}
    for utt_id, source in sources.items():
        text = f"{source.path} {source.start} {source.end} {source.channel} {state(source.path)}"
        digests[utt_id] = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return digests


def _known(path: Path, made_from: dict[str, str]) -> tuple[dict[str, str], bool]:
    """The rows of utt2dur that still hold, and whether it has others."""
    if not (path / "utt2dur").exists() or not (path / MADE_FROM).exists():
        return {}, True
    try:
        rows, before = read_table(path / "utt2dur"), read_table(path / MADE_FROM)
        known = {utt_id: rows[utt_id] for utt_id, digest in made_from.items()
                 if utt_id in rows and before.get(utt_id) == digest and parse_duration(rows[utt_id])}
    except (DataError, ValueError):
        return {}, True
    return known, len(known) < len(rows)


def _tasks(recordings: dict[str, tuple[list[str], list[AudioSource]]]) -> Iterator[Task]:
    groups = iter(recordings.values())
    while task := list(islice(groups, _TASK_FILES)):
        yield task


def map_tasks(function: Callable[[Any], Result], tasks: Iterator, num_jobs: int, path: Path) -> Iterator[Result]:
    """`map(function, tasks)`, in `num_jobs` processes if more than one; an AudioError names `path` if one dies."""
    if num_jobs <= 1:
        yield from map(function, tasks)
        return
    try:
        with ProcessPoolExecutor(num_jobs, mp_context=get_context("spawn")) as pool:
            yield from pool.map(function, tasks)
    except BrokenProcessPool:
        raise AudioError(f"{path}: a process died while it opened recordings (out of memory?); run again with "
                         "--nj 1") from None


def _open_task(task: Task) -> tuple[dict[str, float | AudioError], int]:
    """Durations or errors by utterance, and how many recordings were opened."""
    found = {}
    for ids, sources in task:
        found.update(zip(ids, durations(sources), strict=True))
    return found, len(task)
