"""The durations of a large directory, measured in pieces by several processes, and put together line by line."""

import os
from pathlib import Path

from blspkd.files import read_json, write_json
from blspkd.kaldi.join import join
from blspkd.kaldi.pieces import Pieces, Share, results
from blspkd.kaldi.recordings import BAD_AUDIO, MADE_FROM, bad_audio, measure_durations, write_durations
from blspkd.kaldi.tables import scan_lines, write_table

NAME = "durations"


def write_durations_in_pieces(path: str | os.PathLike, share: Share, num_jobs: int = 1) -> bool | None:
    """`recordings.write_durations`, by several processes; None for one of several jobs, which has done its part."""
    path = Path(path)
    pieces = Pieces(path, share.size)
    if len(pieces) == 1:
        return write_durations(path, num_jobs) if share.job is None else None

    def do(index: int, folder: Path) -> None:
        with pieces.opened(index) as piece:
            measured = measure_durations(piece, num_jobs, f"durations {path}, {index + 1} of {len(pieces)}")
        for name, table in ("utt2dur", measured.seconds), (MADE_FROM, measured.made_from), (BAD_AUDIO, measured.bad):
            write_table(folder / name, table)
        write_json(folder / "counts.json", {"total": len(measured.made_from), "bad": len(measured.bad),
                                            "is_current": measured.is_current})

    with results(pieces, NAME, "", do, share, written=["utt2dur"]) as folders:
        if folders is None:
            return None
        counts = [read_json(folder / "counts.json") for folder in folders]
        total, bad = (sum(piece[key] for piece in counts) for key in ("total", "bad"))
        is_current = all(piece["is_current"] for piece in counts)
        if bad:
            join(folders, path, BAD_AUDIO)
        elif not is_current:
            join(folders, path, "utt2dur")
            join(folders, path, MADE_FROM)  # last: a run that is killed before measures again
            (path / BAD_AUDIO).unlink(missing_ok=True)
    if bad:
        raise bad_audio(path, bad, total, ((utt_id, what) for _, utt_id, what in
                                           scan_lines(path / BAD_AUDIO, lambda *problem: None)))
    return not is_current
