"""A folder of Kaldi matrices that grows in resumable parts: `feats.<n>.ark`, `feats.scp` and `utt2num_frames`."""

import os
import re
import shutil
from pathlib import Path

from blspkd.errors import DataError
from blspkd.files import make_folder, read_json
from blspkd.kaldi.data_dir import write_table
from blspkd.kaldi.matrices import library, write_archive
from blspkd.kaldi.parts import Fingerprint, PartsDir


class MatrixDir(PartsDir):
    """Rows are {"utt_id": ..., "matrix": [T, C] or [T]}; an archive holds one part of the plan."""

    rows_name, marker_name, verb = "utterances.jsonl", "features.json", "writing"
    _LEFTOVER = re.compile(r".+\.tmp-[0-9a-f]{8}-\d+(\.scp)?")  # what a killed process leaves
    _OURS = re.compile(r"feats\.\d+\.ark|feats\.scp|utt2num_frames|utterances\.jsonl|features\.json|"
                       r"parts/fingerprint\.json|parts/part-\d+\.jsonl")

    def __init__(self, path: str | Path, fingerprint: Fingerprint):
        """path: a link to a folder is followed."""
        library()  # to miss it after an hour of work would be too late
        super().__init__(Path(os.path.realpath(path)), fingerprint)
        self.name = path  # as it was given, for messages

    def claim(self) -> None:
        """Make the folder. Raises DataError where it cannot be, or has other things in it, which would be lost."""
        make_folder(self.name)
        others = self._others()
        if others:
            raise DataError(f"{self.name}: has other things in it ({others[0]}); name a new folder")

    def _others(self) -> list[str]:
        """What is there and not ours; only where our marker or our parts are, files with our names are ours."""
        marks = [self.path / name for name in (self.marker_name, "parts/fingerprint.json")]
        has_mark = any(isinstance(read_json(mark).get("fingerprint"), dict) for mark in marks if mark.is_file())
        parts = self.path / "parts"
        names = {entry.relative_to(self.path).as_posix() for folder in (self.path, parts) for entry in folder.glob("*")}
        if parts.is_dir() and not parts.is_symlink():
            names.remove("parts")
        return sorted(name for name in names if not self._LEFTOVER.fullmatch(name)
                      and not (has_mark and self._OURS.fullmatch(name)))

    def is_finished(self) -> bool:
        """Whether all files are there, made with this fingerprint; the archives, too."""
        if not super().is_finished():
            return False
        archives = {row["feats"].rpartition(":")[0] for row in self.rows()}
        return all(Path(archive).is_file() for archive in archives)

    def start(self) -> None:
        """Raises DataError as `claim` does."""
        self.claim()
        if not self._changes(read_json(self.path / self.marker_name)):  # an archive was lost
            shutil.rmtree(self.path)
        super().start()

    def write_part(self, index: int, rows: list[dict]) -> None:
        """The archive first: a part counts as done when its rows are there."""
        entries = write_archive(self.path / f"feats.{index + 1}.ark", {row["utt_id"]: row["matrix"] for row in rows})
        super().write_part(index, [{"utt_id": row["utt_id"], "feats": entries[row["utt_id"]],
                                    "num_frames": len(row["matrix"])} for row in rows])

    def write_beside(self, rows: list[dict]) -> None:
        write_table(self.path / "feats.scp", {row["utt_id"]: row["feats"] for row in rows})
        write_table(self.path / "utt2num_frames", {row["utt_id"]: str(row["num_frames"]) for row in rows})
