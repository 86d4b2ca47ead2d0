"""Which files of a data directory follow which ids: what subset, split, combine and fix have to carry along.

By name: `text`, `text.<task>`, `segments`, `utt2*`, `instruction` and `continuation` have a line per utterance,
`wav.scp` and `reco2*` per recording (which is the utterance where there is no `segments`), `spk2*` per speaker. Any
other table is recognised by its first line's first field. What is none of these belongs to the directory as a whole (a
README, say). Hidden files and folders (`.backup`, `split4`) are no part of the data.
"""

from enum import Enum
from pathlib import Path

INFO = "continuation.info.json"
_PER_UTTERANCE = ("text", "segments", "instruction", "continuation")


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
    return Follows.SPEAKERS if name.startswith("spk2") else None


def data_files(path: Path) -> list[Path]:
    """The files of data directory `path`, sorted by name."""
    return sorted(entry for entry in path.iterdir()
                  if entry.is_file() and not entry.name.startswith(".") and ".tmp-" not in entry.name)


def follows(file: Path, utterances, recordings, speakers) -> Follows:
    """What the lines of `file` belong to; the others are the ids of its directory (containers of bytes)."""
    known = known_file(file.name)
    if known:
        return known
    with open(file, "rb") as lines:
        first = lines.readline(4096).split(None, 1)
    for ids, answer in ((utterances, Follows.UTTERANCES), (recordings, Follows.RECORDINGS),
                        (speakers, Follows.SPEAKERS)):
        if first and first[0] in ids:
            return answer
    return Follows.NOTHING
