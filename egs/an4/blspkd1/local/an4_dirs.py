"""AN4 in its official layout as data directories.

    python local/an4_dirs.py --an4 DIR --output_dir data [--num_valid_speakers 8] [--seed 0]

DIR holds etc/an4_{train,test}.{fileids,transcription} and wav/<fileid>.sph. Writes
    people   training speakers, without sentences of more than one word that the test part holds too
    valid    some other training speakers, held out
    test     the official test speakers
Transcripts are written in lower case, as LLMs mostly read it. Recordings are read where they are.
"""

import argparse
import random
import re
from dataclasses import dataclass
from pathlib import Path

from blspkd.errors import DataError, command
from blspkd.kaldi.data_dir import write_table

LINE = re.compile(r"(?:<s>)?(?P<text>.*?)(?:</s>)?\s*\((?P<name>[^()\s]+)\)\s*")


@dataclass(frozen=True)
class Recording:
    utt_id: str  # speaker first, as Kaldi sorts: fash-an251-b
    speaker: str
    path: Path
    text: str


def read_part(an4: Path, part: str) -> list[Recording]:
    """The recordings of etc/an4_<part>.*. Raises DataError for what is missing or does not fit together."""
    files = _lines(an4 / f"etc/an4_{part}.fileids")
    transcripts = {}
    for number, line in enumerate(_lines(an4 / f"etc/an4_{part}.transcription"), start=1):
        match = LINE.fullmatch(line)
        if not match or not match["text"].strip():
            raise DataError(f"{an4}/etc/an4_{part}.transcription:{number}: expected `WORDS (name)`, found {line!r}")
        if match["name"] in transcripts:
            raise DataError(f"{an4}/etc/an4_{part}.transcription:{number}: ({match['name']}) stands here a second time")
        transcripts[match["name"]] = " ".join(match["text"].lower().split())
    if len(set(files)) < len(files):
        twice = next(file for file in files if files.count(file) > 1)
        raise DataError(f"{an4}/etc/an4_{part}.fileids: {twice} stands there more than once")
    recordings = []
    for file in files:
        name, speaker = Path(file).name, Path(file).parent.name
        path = an4 / "wav" / f"{file}.sph"
        if name not in transcripts:
            raise DataError(f"{an4}/etc/an4_{part}.transcription: no line for ({name}), which an4_{part}.fileids lists")
        if not path.is_file():
            raise DataError(f"{path}: there is no such recording, but etc/an4_{part}.fileids lists it")
        utt_id = "-".join([speaker, *(piece for piece in name.split("-") if piece != speaker)])
        recordings.append(Recording(utt_id, speaker, path, transcripts[name]))
    unknown = sorted(transcripts.keys() - {Path(file).name for file in files})
    if unknown:
        raise DataError(f"{an4}/etc/an4_{part}.fileids: no line for {unknown[0]}, which an4_{part}.transcription has")
    return recordings


def write_data_dir(folder: Path, recordings: list[Recording]) -> None:
    speakers: dict[str, list[str]] = {}
    for one in sorted(recordings, key=lambda one: one.utt_id.encode()):
        speakers.setdefault(one.speaker, []).append(one.utt_id)
    write_table(folder / "wav.scp", {one.utt_id: str(one.path) for one in recordings})
    write_table(folder / "text", {one.utt_id: one.text for one in recordings})
    write_table(folder / "utt2spk", {one.utt_id: one.speaker for one in recordings})
    write_table(folder / "spk2utt", {speaker: " ".join(ids) for speaker, ids in speakers.items()})


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; name AN4's folder, which holds etc/ and wav/: AN4 in db.sh, "
                        'or --local_data_opts "--an4 DIR"')
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start + 1} is not valid UTF-8") from None


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--an4", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--num_valid_speakers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train, test = read_part(args.an4, "train"), read_part(args.an4, "test")
    speakers = sorted({one.speaker for one in train})
    common = sorted(set(speakers) & {one.speaker for one in test})
    if common:
        raise DataError(f"{args.an4}: speaker {common[0]} is in the training and in the test part")
    if not 0 < args.num_valid_speakers < len(speakers):
        raise DataError(f"num_valid_speakers: {args.num_valid_speakers} of {len(speakers)} training speakers")
    held_out = set(random.Random(args.seed).sample(speakers, args.num_valid_speakers))
    tested = {one.text for one in test if len(one.text.split()) > 1}
    people = [one for one in train if one.speaker not in held_out]
    kept = [one for one in people if one.text not in tested]
    sets = {"people": kept, "valid": [one for one in train if one.speaker in held_out], "test": test}
    for name, recordings in sets.items():
        write_data_dir(args.output_dir / name, recordings)
    print(", ".join(f"{name}: {len(found)} utterances of {len({one.speaker for one in found})} speakers"
                    for name, found in sets.items())
          + f"; left out of people: {len(people) - len(kept)} utterances whose sentence is in the test part")


if __name__ == "__main__":
    main()
