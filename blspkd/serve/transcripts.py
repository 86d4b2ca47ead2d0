"""The words of many recordings: a file that cannot be used is told, and the others are done all the same."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from blspkd.errors import BlspkdError, DataError, for_stream
from blspkd.files import atomic_write
from blspkd.models.chat import SpeechLLM
from blspkd.progress import progress_bar
from blspkd.serve.inputs import recording, written_name


def transcribe_files(model: SpeechLLM, files: Sequence[str], output: str | Path | None = None, as_json: bool = False,
                     **options) -> None:
    """Print the text of each file, behind its name where there are several, or write it into the folder `output`.

    as_json: {"file": ..., "text": ...}, one line each; options: of `SpeechLLM.transcribe`.
    Raises DataError in the end where files failed.
    """
    failed = 0
    bar = progress_bar("transcribe", total=len(files), unit="file") if len(files) > 1 else None
    for file in files:
        try:
            text = " ".join(model.transcribe(recording(file), **options).split())
        except BlspkdError as error:
            failed += 1
            _print(bar, f"error: {error}", sys.stderr)
        else:
            line = json.dumps({"file": file, "text": text}, ensure_ascii=False) if as_json else text
            if output is not None:
                with atomic_write(Path(output) / f"{written_name(file)}.{'json' if as_json else 'txt'}") as written:
                    written.write(f"{line}\n")
            else:
                _print(bar, line if as_json or len(files) == 1 else f"{file}\t{text}", sys.stdout)
        if bar is not None:
            bar.update()
    if bar is not None:
        bar.close()
    if failed:
        raise DataError(f"{failed} of {len(files)} files could not be transcribed (see above)")


def _print(bar, line: str, where: TextIO) -> None:
    """Print a line, above the bar on a terminal."""
    line = for_stream(line, where)
    if bar is None:
        print(line, file=where, flush=True)
    else:
        bar.write(line, file=where)
        where.flush()
