"""Make Kaldi-style data directories of what was spoken.

    python local/data_dirs.py --spoken_dir data/local/spoken --wav_dir data/local/wav --output_dir data

writes `<output_dir>/<set>/` with wav.scp, text, utt2spk, spk2utt, utt2dur and word_times; the test sets also get the
references text.translate, text.qa and text.initials, and the question as `instruction`. Speakers are voices.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

from speech_plan import SENTENCES, read_rows

from blspkd.atomic import atomic_write
from blspkd.data.kaldi_dir import write_table
from blspkd.errors import DataError, command


def write_data_dir(set_name: str, spoken_dir: Path, wav_dir: Path, output_dir: Path) -> None:
    """Gather the shards of a set. Paths in wav.scp begin with `wav_dir` as given."""
    tables: dict[str, dict[str, str]] = defaultdict(dict)
    speakers: dict[str, list[str]] = defaultdict(list)
    word_times: dict[str, list[str]] = defaultdict(list)
    order: list[str] = []
    for shard in sorted((wav_dir / set_name).iterdir()):
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
    rows = read_rows(spoken_dir, set_name)
    if [row["text"] for row in rows] != [tables["text"][key] for key in order]:
        raise DataError(f"{wav_dir / set_name}: holds other sentences than {spoken_dir}; run local/synthesise.py first")
    if set_name.startswith("test"):
        for table, field in (("text.translate", "translate"), ("text.qa", "answer"), ("text.initials", "initials"),
                             ("instruction", "question")):
            tables[table] = {key: row[field] for key, row in zip(order, rows, strict=True)}
    tables["spk2utt"] = {speaker: " ".join(_sorted(keys)) for speaker, keys in speakers.items()}
    for table, values in tables.items():
        write_table(output_dir / set_name / table, values)
    with atomic_write(output_dir / set_name / "word_times") as file:
        for key in _sorted(word_times):
            file.writelines(line + "\n" for line in word_times[key])


def _sorted(keys) -> list[str]:
    return sorted(keys, key=str.encode)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spoken_dir", type=Path, required=True)
    parser.add_argument("--wav_dir", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()
    for set_name in SENTENCES:
        write_data_dir(set_name, args.spoken_dir, args.wav_dir, args.output_dir)


if __name__ == "__main__":
    main()
