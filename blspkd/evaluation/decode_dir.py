"""One decode directory, `exp/<tag>/decode_<task>_<set>[.<system>]`: `hyp.jsonl`, `text` and, last, `decode.json`.

While it grows it holds `parts/` (see `kaldi.parts`); scoring adds `score.json`.
"""

import re
from pathlib import Path

from blspkd.errors import DataError
from blspkd.kaldi.data_dir import write_table
from blspkd.kaldi.parts import Fingerprint, PartsDir

# System -> ending of the directory's name.
SUFFIX = {"speech": "", "text": ".text", "chance": ".chance", "cascade": ".cascade"}
CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # a Kaldi table cannot hold these; hyp.jsonl keeps them


def decode_dir_path(exp_dir: str | Path, task: str, set_name: str, system: str) -> Path:
    return Path(exp_dir) / f"decode_{task}_{set_name}{SUFFIX[system]}"


class HypothesisDir(PartsDir):
    """A table of hypotheses, `hyp.jsonl`, and the same as a Kaldi table, `text`."""

    def write_beside(self, rows: list[dict]) -> None:
        """An empty hypothesis leaves its utterance's id alone on the line."""
        write_table(self.path / "text", {row["utt_id"]: " ".join(CONTROL.sub(" ", row["hypothesis"]).split())
                                         for row in rows})


class DecodeDir(HypothesisDir):
    """The hypotheses of one (task, system) on one set."""

    def __init__(self, exp_dir: str | Path, task: str, set_name: str, system: str, fingerprint: Fingerprint):
        super().__init__(decode_dir_path(exp_dir, task, set_name, system), fingerprint)
        self.task, self.system = task, system


def is_finished(path: Path) -> bool:
    """Whether all of this decode directory is there."""
    return (path / "decode.json").is_file()


def read_finished(path: Path) -> list[dict]:
    """Rows of a finished decode directory; DataError with the remedy if it is missing or was not finished."""
    if not is_finished(path):
        state = "is not finished" if path.is_dir() else "is not there"
        raise DataError(f"{path}: {state}; decode first (stage 4)")
    return PartsDir(path, {}).rows()
