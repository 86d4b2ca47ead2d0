"""A folder of Kaldi matrices that grows in resumable parts: `feats.<n>.ark`, `feats.scp` and `utt2num_frames`."""

import re
import shutil
from pathlib import Path

from blspkd.errors import DataError
from blspkd.files import read_json
from blspkd.kaldi.data_dir import write_table
from blspkd.kaldi.matrices import library, write_archive
from blspkd.kaldi.parts import Fingerprint, PartsDir


class MatrixDir(PartsDir):
    """Rows are {"utt_id": ..., "matrix": [T, C] or [T]}; an archive holds one part of the plan."""

    rows_name, marker_name, verb = "utterances.jsonl", "features.json", "writing"
    _OURS = re.compile(r"feats\.\d+\.ark|feats\.scp|utt2num_frames|utterances\.jsonl|features\.json|parts|.+\.tmp-.+")

    def __init__(self, path: str | Path, fingerprint: Fingerprint):
        library()  # to miss it after an hour of work would be too late
        super().__init__(Path(path), fingerprint)

    def is_finished(self) -> bool:
        """Whether all files are there, made with this fingerprint; the archives, too."""
        if not super().is_finished():
            return False
        archives = {row["feats"].rpartition(":")[0] for row in self.rows()}
        return all(Path(archive).is_file() for archive in archives)

    def start(self) -> None:
        """Raises DataError for a folder with other things in it, which would be lost."""
        others = sorted(entry.name for entry in self.path.glob("*") if not self._OURS.fullmatch(entry.name))
        if others:
            raise DataError(f"{self.path}: has other things in it ({others[0]}); name a new folder")
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
