"""Which files of a data directory follow which ids: what subset, split, combine and fix have to carry along.

By name: `text`, `text.<task>`, `segments`, `utt2*`, `instruction`, `continuation` and Kaldi's `feats.scp` and `vad.scp`
have a line per utterance, `word_times` several, `wav.scp` and `reco2*` one per recording (which is the utterance where
there is no `segments`), `spk2*` and `cmvn.scp` one per speaker. Any other table is recognised by its first line's first
field. What is none of these belongs to the directory as a whole (a
README, say). Hidden files and folders (`.backup`, `split4`) are no part of the data.
"""

from enum import Enum
from pathlib import Path

INFO = "continuation.info.json"
SEVERAL_LINES = ("word_times",)  # of one utterance
_PER_UTTERANCE = ("text", "segments", "instruction", "continuation", "feats.scp", "vad.scp", *SEVERAL_LINES)


class Follows(Enum):
    """What the lines of a file belong to."""

    UTTERANCES = "utterances"
    RECORDINGS = "recordings"
    SPEAKERS = "speakers"
    NOTHING = "nothing"


def known_file(name: str) -> Follows | None:
    """What the lines of file `name` belong to, as far as the name tells."""
    if name == INFO or name.endswith((".json", ".md")) or name.startswith("README"):
        return Follows.NOTHING
    if name in _PER_UTTERANCE or name.startswith(("text.", "utt2")):
        return Follows.UTTERANCES
    if name == "wav.scp" or name.startswith("reco2"):
        return Follows.RECORDINGS
    return Follows.SPEAKERS if name.startswith("spk2") or name == "cmvn.scp" else None


def data_files(path: Path) -> list[Path]:
    """The files of data directory `path`, sorted by name."""
    return sorted(entry for entry in path.iterdir()
                  if entry.is_file() and not entry.name.startswith(".") and ".tmp-" not in entry.name)


def first_id(file: Path) -> bytes:
    """What stands first in `file`; nothing if it begins with a blank line."""
    with open(file, "rb") as lines:
        return b"".join(lines.readline(4096).split(None, 1)[:1])


def follows(file: Path, utterances, recordings, speakers) -> Follows:
    """What the lines of `file` belong to; the others are the ids of its directory, or those of them that stand first
    in a file of an unknown name (containers of bytes)."""
    known = known_file(file.name)
    if known:
        return known
    first = first_id(file)
    for ids, answer in ((utterances, Follows.UTTERANCES), (recordings, Follows.RECORDINGS),
                        (speakers, Follows.SPEAKERS)):
        if first in ids:
            return answer
    return Follows.NOTHING
