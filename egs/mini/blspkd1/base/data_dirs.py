"""Make Kaldi-style data directories of what was spoken.

    python base/data_dirs.py --sets "train=train/training test=test/held_out" --spoken_dir data/local/spoken \
        --wav_dir data/local/wav --output_dir data

writes `<output_dir>/<set>/` with wav.scp, text, utt2spk, spk2utt, utt2dur and word_times. What the sentences' rows hold
besides their text and how to speak it becomes a file of references, text.<task>, or `instruction`. Speakers are voices.
With --max_seconds, what took longer to say is left out.
"""

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path

from speech_plan import SpokenSet, parse_sets, read_rows

from blspkd.errors import DataError, command
from blspkd.files import atomic_write
from blspkd.kaldi.data_dir import write_table


def write_data_dir(one: SpokenSet, spoken_dir: Path, wav_dir: Path, output_dir: Path, max_seconds: float) -> None:
    """Gather the shards of a set. Paths in wav.scp begin with `wav_dir` as given."""
    tables: dict[str, dict[str, str]] = defaultdict(dict)
    speakers: dict[str, list[str]] = defaultdict(list)
    word_times: dict[str, list[str]] = defaultdict(list)
    order: list[str] = []
    for shard in sorted((wav_dir / one.name).iterdir()):
        for line in _lines(shard / "plan.jsonl"):
            utterance = json.loads(line)
            key = utterance["utt_id"]
            order.append(key)
            speakers[utterance["speaker"]].append(key)
            tables["wav.scp"][key] = f"{shard.as_posix()}/{key}.wav"
            tables["text"][key] = utterance["text"]
            tables["utt2spk"][key] = utterance["speaker"]
        for line in _lines(shard / "utt2dur"):
            key, value = line.split()
            tables["utt2dur"][key] = value
        for line in _lines(shard / "word_times"):
            word_times[line.split()[0]].append(line)
    rows = read_rows(spoken_dir, one.sentences)
    if [row["text"] for row in rows] != [tables["text"][key] for key in order]:
        raise DataError(f"{wav_dir / one.name}: holds other sentences than {spoken_dir}; run base/synthesise.py first")
    for field in rows[0]:
        if field not in ("text", "spoken"):
            table = field if field == "instruction" else f"text.{field}"
            tables[table] = {key: row[field] for key, row in zip(order, rows, strict=True)}
    kept = {key for key, seconds in tables["utt2dur"].items() if float(seconds) <= max_seconds}
    if len(kept) < len(order):
        print(f"{one.name}: {len(order) - len(kept)} of {len(order)} utterances left out, longer than "
              f"{max_seconds:g} s")
    for table, values in tables.items():
        write_table(output_dir / one.name / table, {key: value for key, value in values.items() if key in kept})
    spoken = {speaker: _sorted(kept.intersection(keys)) for speaker, keys in speakers.items()}
    write_table(output_dir / one.name / "spk2utt",
                {speaker: " ".join(keys) for speaker, keys in spoken.items() if keys})
    with atomic_write(output_dir / one.name / "word_times") as file:
        for key in _sorted(kept.intersection(word_times)):
            file.writelines(line + "\n" for line in word_times[key])


def _sorted(keys) -> list[str]:
    return sorted(keys, key=str.encode)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", required=True, help="NAME=SENTENCES/VOICES of each set (speech_plan.py)")
    parser.add_argument("--spoken_dir", type=Path, required=True)
    parser.add_argument("--wav_dir", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--max_seconds", type=float, default=math.inf)
    args = parser.parse_args()
    for one in parse_sets(args.sets):
        write_data_dir(one, args.spoken_dir, args.wav_dir, args.output_dir, args.max_seconds)


if __name__ == "__main__":
    main()
