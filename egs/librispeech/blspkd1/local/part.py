"""One part of LibriSpeech -> a Kaldi data directory.

    python local/part.py downloads/LibriSpeech/dev-clean data/dev_clean

A part holds <speaker>/<chapter>/<speaker>-<chapter>.trans.txt, with a line `<speaker>-<chapter>-<number> WORDS` for
each recording beside it. The ids stay as they are. As in Kaldi's recipe of the corpus, the speaker of utt2spk is
<speaker>-<chapter>: a reader's voice and microphone may differ from book to book.
"""

import argparse
from pathlib import Path

from blspkd.errors import DataError, command
from blspkd.kaldi.fix import spk2utt
from blspkd.kaldi.tables import write_table

SHOWN = 3  # ids in a message


def read_transcripts(part: Path) -> dict[str, str]:
    """{utterance: transcript} of all chapters. Raises DataError naming file and line."""
    transcripts = {}
    for path in sorted(part.glob("*/*/*.trans.txt")):
        chapter = path.name.removesuffix(".trans.txt")
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 ({error.reason}); unpack the archive again") from None
        for number, line in enumerate(lines, 1):
            utt_id, _, text = line.partition(" ")
            if utt_id.rpartition("-")[0] != chapter or not text.strip():
                raise DataError(f"{path}:{number}: expected '{chapter}-<number> WORDS', found {line!r}; unpack the "
                                "archive again")
            transcripts[utt_id] = text.strip()
    if not transcripts:
        raise DataError(f"{part}: holds no <speaker>/<chapter>/*.trans.txt; is it a part of LibriSpeech, unpacked?")
    return transcripts


def check_complete(part: Path, transcripts: dict[str, str], recordings: dict[str, Path],
                   allow_incomplete: bool) -> None:
    """Say what lacks its other half. Raises DataError unless that is allowed."""
    problems = [f"{len(ids)} {what} ({', '.join(sorted(ids)[:SHOWN])}{', ...' if len(ids) > SHOWN else ''})"
                for what, ids in (("transcripts without a recording", transcripts.keys() - recordings.keys()),
                                  ("recordings without a transcript", recordings.keys() - transcripts.keys())) if ids]
    if problems and not allow_incomplete:
        raise DataError(f"{part}: {' and '.join(problems)}; unpack the archive again, or leave these utterances out: "
                        '--local_data_opts "--allow_incomplete true"')
    for problem in problems:
        print(f"{part}: left out {problem}")


@command
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--lowercase", choices=("true", "false"), default="true")
    parser.add_argument("--allow_incomplete", choices=("true", "false"), default="false")
    parser.add_argument("part", type=Path)
    parser.add_argument("data_dir", type=Path)
    args = parser.parse_args(words)
    transcripts = read_transcripts(args.part)
    recordings = {path.stem: path for path in args.part.glob("*/*/*.flac")}
    check_complete(args.part, transcripts, recordings, args.allow_incomplete == "true")
    utt_ids = sorted(transcripts.keys() & recordings.keys())
    if not utt_ids:
        raise DataError(f"{args.part}: no utterance has both a transcript and a recording; unpack the archive again")
    speakers = {utt_id: utt_id.rpartition("-")[0] for utt_id in utt_ids}
    tables = {
        "wav.scp": {utt_id: str(recordings[utt_id]) for utt_id in utt_ids},
        "text": {utt_id: transcripts[utt_id].lower() if args.lowercase == "true" else transcripts[utt_id]
                 for utt_id in utt_ids},
        "utt2spk": speakers,
        "spk2utt": spk2utt(speakers),
    }
    for name, rows in tables.items():
        write_table(args.data_dir / name, rows)
    print(f"{args.part}: {len(utt_ids)} utterances, {len(tables['spk2utt'])} chapters")


if __name__ == "__main__":
    main()
