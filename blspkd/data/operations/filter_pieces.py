"""`filter_dir` of a large directory: several processes judge pieces of it, and one puts together what is left.

A piece's verdicts are a file, and what is left of it a small data directory. What only the whole tells is settled from
these files, line by line: the share of undecodable audio, near-duplicates (of the texts that share a 5-gram with
another one) and the control, which is drawn by number.
"""

import json
import os
import random
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import compress
from pathlib import Path

import numpy as np

from blspkd.data import shared_grams
from blspkd.data.operations.filter import (
    REPORT,
    SHOWN,
    check_undecodable,
    filter_dir,
    repeated,
    report_head,
    summary,
    unit_of,
)
from blspkd.data.operations.limits import Limits
from blspkd.data.operations.verdicts import AT_RANDOM, REASONS, UNDECODABLE, UNUSABLE, Verdict, judge_dir
from blspkd.errors import DataError
from blspkd.files import atomic_path, scratch_folder
from blspkd.kaldi.columns import transcripts_file
from blspkd.kaldi.files import INFO, Follows
from blspkd.kaldi.join import join_directories
from blspkd.kaldi.pieces import Pieces, Share, results
from blspkd.kaldi.tables import read_table
from blspkd.kaldi.verbs import new_directory, subset

NAME = "filter"
_TRANSCRIPTS = ".transcripts"  # of a recogniser, in a piece
Row = tuple[str, Verdict]


def filter_in_pieces(source: str | os.PathLike, destination: str | os.PathLike, limits: Limits, share: Share, *,
                     test_dirs: Iterable[str | os.PathLike] = (), llm: str = "",
                     report: str | os.PathLike | None = None, num_jobs: int = 1) -> object | None:
    """`filter.filter_dir`, by several processes; returns what to print, or None for one of several jobs."""
    source, destination, test_dirs = Path(source), Path(destination), [Path(path) for path in test_dirs]
    pieces = Pieces(source, share.size)
    if len(pieces) == 1:
        return None if share.job is not None else filter_dir(source, destination, limits, test_dirs=test_dirs, llm=llm,
                                                             report=report, num_jobs=num_jobs)
    made_from = [str(limits), llm, [(str(path), *_state(path / "text")) for path in test_dirs],
                 _state(transcripts_file(source, limits.transcripts))]

    def do(index: int, folder: Path) -> None:
        more, within = {}, limits
        if limits.transcripts and (file := transcripts_file(source, limits.transcripts)):
            more, within = {_TRANSCRIPTS: file}, replace(limits, transcripts=_TRANSCRIPTS)
        with pieces.opened(index, more) as piece:
            texts, verdicts = judge_dir(piece, within, test_dirs, llm, num_jobs)
            with open(folder / "verdicts", "w", encoding="utf-8") as file:
                for utt_id, verdict in verdicts.items():
                    print(json.dumps([utt_id, verdict.reason, verdict.why, verdict.seconds]), file=file)
            kept = [utt_id for utt_id, verdict in verdicts.items() if not verdict.reason]
            if limits.near_duplicates:
                shared_grams.save(folder / "grams.npz", (texts[utt_id] for utt_id in kept))
            if not _needs_all(limits) and kept:
                subset(piece, folder / "kept", kept)

    with results(pieces, NAME, made_from, do, share) as folders:
        if folders is None:
            return None
        filtered = _Filtered(pieces, folders, limits)
        said = summary(filtered.kept, filtered.seconds, unit_of(llm), filtered.left_out, filtered.instead_of)
        if not filtered.kept:
            raise DataError(f"{source}: no utterance is left: {said}")
        with new_directory(destination, [source]) as temporary:
            filtered.write_directory(temporary)
        head = report_head(source, limits, test_dirs, unit_of(llm), filtered.total, filtered.kept, filtered.seconds,
                           {reason: count for reason, (count, _) in filtered.left_out.items()}, filtered.instead_of)
        filtered.write_report(Path(report or destination / REPORT), head)
    return said


def _needs_all(limits: Limits) -> bool:
    """Whether a piece does not tell what is left of it."""
    return bool(limits.near_duplicates) or limits.random_seed is not None


class _Filtered:
    """What is left of all pieces, and the figures about it."""

    def __init__(self, pieces: Pieces, folders: list[Path], limits: Limits):
        self.pieces, self.folders, self.limits = pieces, folders, limits
        self._check_undecodable()
        self._repeated = self._near_duplicates() if limits.near_duplicates else {}
        self.instead_of, self._drawn = self._draw() if limits.random_seed is not None else ({}, None)
        self.total = self.kept = 0
        counts, first = dict.fromkeys(REASONS, 0), {reason: [] for reason in REASONS}
        for utt_id, verdict in self.rows():
            self.total += 1
            self.kept += not verdict.reason
            if verdict.reason:
                counts[verdict.reason] += 1
                if counts[verdict.reason] <= SHOWN:
                    first[verdict.reason].append((utt_id, verdict.why))
        self.left_out = {reason: (counts[reason], first[reason]) for reason in REASONS}
        self.seconds = sum(verdict.seconds for _, verdict in self.rows() if not verdict.reason)

    def rows(self) -> Iterator[Row]:
        """Every utterance with its last verdict."""
        opened = 0
        for utt_id, verdict in self._by_rules():
            if self._drawn is not None and verdict.seconds is not None:
                verdict = Verdict(AT_RANDOM if self._drawn[opened] else "", "", verdict.seconds)
                opened += 1
            yield utt_id, verdict

    def write_directory(self, destination: Path) -> None:
        """Write what is left to the folder `destination`."""
        with scratch_folder(self.pieces.path / ".kept") as scratch:
            kept = [folder / "kept" for folder in self.folders]
            if _needs_all(self.limits):
                kept = self._cut(scratch)
            kinds = {file.name: kind for file, kind in self.pieces.kinds().items()}
            join_directories([folder for folder in kept if folder.is_dir()], destination, kinds)
        for name in (name for name, kind in kinds.items() if kind is Follows.NOTHING and name != INFO):
            shutil.copyfile(self.pieces.path / name, destination / name)

    def write_report(self, file: Path, head: dict) -> None:
        """As `json.dump` with an indent of 1 writes it: utterances by reason."""
        with scratch_folder(self.pieces.path / ".report") as scratch, atomic_path(file) as temporary:
            with ExitStack() as stack:
                lists = {reason: stack.enter_context(open(scratch / str(number), "w", encoding="utf-8"))
                         for number, reason in enumerate(REASONS)}
                for utt_id, verdict in self.rows():
                    if verdict.reason:
                        begin = ",\n" if lists[verdict.reason].tell() else ""
                        lists[verdict.reason].write(f"{begin}   {_text(utt_id)}: {_text(verdict.why)}")
            with open(temporary, "w", encoding="utf-8") as whole:
                whole.write(json.dumps(head, ensure_ascii=False, indent=1).removesuffix("\n}") + ',\n "left_out": {')
                for number, reason in enumerate(REASONS):
                    whole.write(f"{',' * (number > 0)}\n  {_text(reason)}: {{")
                    if self.left_out[reason][0]:
                        whole.write("\n")
                        with open(scratch / str(number), encoding="utf-8", newline="") as lines:
                            whole.writelines(lines)
                        whole.write("\n  ")
                    whole.write("}")
                whole.write("\n }\n}")

    def _by_rules(self) -> Iterator[Row]:
        for folder in self.folders:
            for utt_id, verdict in _rows(folder):
                if utt_id in self._repeated:
                    verdict = Verdict(*self._repeated[utt_id], verdict.seconds)
                yield utt_id, verdict

    def _check_undecodable(self) -> None:
        bad, first, total = 0, None, 0
        for folder in self.folders:
            for utt_id, verdict in _rows(folder):
                total += 1
                if verdict.reason == UNDECODABLE:
                    bad, first = bad + 1, first or (utt_id, verdict.why)
        check_undecodable(self.pieces.path, bad, first, total, self.limits)

    def _near_duplicates(self) -> dict[str, tuple[str, str]]:
        texts: dict[str, str] = {}
        marks = shared_grams.sharing([folder / "grams.npz" for folder in self.folders])
        for index, (folder, mark) in enumerate(zip(self.folders, marks, strict=True)):
            if mark.any():
                with self.pieces.opened(index) as piece:
                    said = read_table(piece / "text", allow_empty=True)
                kept = (utt_id for utt_id, verdict in _rows(folder) if not verdict.reason)
                texts |= {utt_id: said[utt_id] for utt_id in compress(kept, mark)}
        return repeated(texts, self.limits)

    def _draw(self) -> tuple[dict[str, int], np.ndarray]:
        """What the rules would have left out, and which of those that were opened are drawn instead [opened]."""
        counts, opened = {reason: 0 for reason in REASONS if reason not in UNUSABLE}, 0
        for _, verdict in self._by_rules():
            opened += verdict.seconds is not None
            if verdict.reason in counts:
                counts[verdict.reason] += 1
        drawn = np.zeros(opened, dtype=bool)
        drawn[random.Random(self.limits.random_seed).sample(range(opened), sum(counts.values()))] = True
        return counts, drawn

    def _cut(self, scratch: Path) -> list[Path]:
        """What is left of each piece, as a data directory."""
        rows = self.rows()
        folders = []
        for index in range(len(self.pieces)):
            with self.pieces.opened(index) as piece:
                ids = read_table(piece / "utt2spk")
                kept = [utt_id for utt_id, verdict in (next(rows) for _ in ids) if not verdict.reason]
                folders.append(scratch / str(index))
                if kept:
                    subset(piece, folders[-1], kept)
        return folders


def _rows(folder: Path) -> Iterator[Row]:
    """The verdicts of a piece."""
    with open(folder / "verdicts", encoding="utf-8") as file:
        for line in file:
            utt_id, *verdict = json.loads(line)
            yield utt_id, Verdict(*verdict)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _state(file: Path | None) -> list:
    """Size and date."""
    return [file.stat().st_size, file.stat().st_mtime_ns] if file is not None and file.is_file() else []
