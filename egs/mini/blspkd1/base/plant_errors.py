"""A copy of a data directory with errors of known places: what a filter should find (base/filter_recall.py).

    python base/plant_errors.py --data_dir data/train --output_dir data/train_planted --wav_dir data/local/planted

Three disjoint parts of the utterances, drawn by the seed, become
- wrong: they change transcripts (and continuations) among themselves, so that each has another one's
- noisy: their audio has speech-shaped noise at --snr_db
- duplicates: a second utterance has the same audio and transcript; its id ends in "-copy"
What was done to whom is in planted.json beside the tables. word_times, which are of the old transcripts, are left out.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from blspkd.data.operations.noise import add_noise
from blspkd.errors import ConfigError, DataError, command
from blspkd.files import atomic_write
from blspkd.kaldi import verbs
from blspkd.kaldi.data_dir import read_table, write_table
from blspkd.kaldi.tables import read_continuations, write_continuations

RECORD = "planted.json"
COPY = "-copy"  # ending of a duplicate's id


def draw(utt_ids: Sequence[str], shares: Mapping[str, float], rng: random.Random) -> dict[str, list[str]]:
    """Disjoint random parts of these shares of `utt_ids`, sorted. Raises ConfigError for more than all."""
    if not all(0 <= share <= 1 for share in shares.values()) or sum(shares.values()) > 1:
        raise ConfigError(f"the shares of {', '.join(shares)} are not from 0 to 1, or more than 1 together")
    order, parts = rng.sample(sorted(utt_ids), len(utt_ids)), {}
    for name, share in shares.items():
        size = round(share * len(utt_ids))
        parts[name], order = sorted(order[:size]), order[size:]
    return parts


def exchange(texts: Mapping[str, str], utt_ids: Sequence[str], rng: random.Random) -> dict[str, str]:
    """{utterance: the one whose transcript it gets} among `utt_ids`; nobody gets a transcript like the own one.

    Raises DataError where that is impossible.
    """
    # Sorted by text, shifted by the size of the largest group of equal texts: no text meets itself.
    order = rng.sample(sorted(utt_ids), len(utt_ids))
    order.sort(key=texts.__getitem__)
    runs, longest = 0, 0
    for before, utt_id in zip([None, *order], order, strict=False):
        runs = runs + 1 if before is not None and texts[before] == texts[utt_id] else 1
        longest = max(longest, runs)
    if 2 * longest > len(order):
        raise DataError(f"{len(order)} utterances cannot change transcripts: too many of them say the same, e.g. "
                        f"{order[0]}; plant fewer or more wrong transcripts")
    shift = rng.randint(longest, len(order) - longest) if order else 0
    return dict(zip(order, order[shift:] + order[:shift], strict=True))


def plant(source: Path, destination: Path, wav_dir: Path, shares: Mapping[str, float], snr_db: float, seed: int,
          num_jobs: int = 1) -> dict:
    """Write the copy; returns the record. Raises ConfigError, DataError, and AudioError for noise on silence."""
    rng = random.Random(seed)
    texts = read_table(source / "text")
    parts = draw(list(texts), shares, rng)
    text_of = exchange(texts, parts["wrong"], rng)
    with tempfile.TemporaryDirectory(dir=destination.parent) as folder:
        work = Path(folder)
        pieces = [work / "rest"]
        verbs.subset(source, pieces[0], [utt_id for utt_id in texts if utt_id not in set(parts["noisy"])])
        _change_texts(pieces[0], text_of)
        if parts["noisy"]:
            verbs.subset(source, work / "clean", parts["noisy"])
            pieces.append(work / "noisy")
            add_noise(work / "clean", pieces[-1], wav_dir, snr_db, seed, num_jobs=num_jobs)
            (pieces[-1] / "noise.json").unlink()
        if parts["duplicates"]:
            verbs.subset(source, work / "originals", parts["duplicates"])
            pieces.append(work / "copies")
            verbs.copy(work / "originals", pieces[-1], lambda utt_id: utt_id + COPY, str)
        for piece in pieces:
            (piece / "word_times").unlink(missing_ok=True)
        verbs.combine(destination, pieces)
    record = {"source": source.as_posix(), "seed": seed, "snr_db": snr_db, "utterances": len(texts), "wrong": text_of,
              "noisy": parts["noisy"], "duplicates": {utt_id + COPY: utt_id for utt_id in parts["duplicates"]}}
    with atomic_write(destination / RECORD) as file:
        json.dump(record, file, indent=1, ensure_ascii=False, sort_keys=True)
    return record


def _change_texts(folder: Path, text_of: Mapping[str, str]) -> None:
    """Give each utterance the transcript of another, and the continuation, which is one of that transcript."""
    for name, read, write in (("text", read_table, write_table),
                              ("continuation", read_continuations, write_continuations)):
        if (folder / name).exists():
            rows = read(folder / name)
            swapped = {utt_id: rows[other] for utt_id, other in text_of.items() if other in rows}
            kept = {utt_id: value for utt_id, value in rows.items() if utt_id not in text_of}
            write(folder / name, kept | swapped)


@command
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True, help="the copy")
    parser.add_argument("--wav_dir", type=Path, required=True, help="folder for noisy audio")
    parser.add_argument("--wrong", type=float, default=0.1, help="share of utterances with a wrong transcript")
    parser.add_argument("--noisy", type=float, default=0.05, help="share of utterances with noise")
    parser.add_argument("--duplicates", type=float, default=0.05, help="share of utterances that stand there twice")
    parser.add_argument("--snr_db", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nj", type=int, default=1)
    args = parser.parse_args(words)
    shares = {name: getattr(args, name) for name in ("wrong", "noisy", "duplicates")}
    record = plant(args.data_dir, args.output_dir, args.wav_dir, shares, args.snr_db, args.seed, args.nj)
    print(f"{args.output_dir}: {record['utterances']} utterances; planted: "
          + ", ".join(f"{len(record[name])} {name}" for name in shares))


if __name__ == "__main__":
    main()
