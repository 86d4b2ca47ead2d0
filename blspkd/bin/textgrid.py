"""Write Praat TextGrids of fire times: python -m blspkd.bin.textgrid --exp_dir exp/tag --set test --output_dir DIR.

Reads exp/<tag>/align_<set>/utterances.jsonl, which `python -m blspkd.bin.align` writes.
"""

import argparse
from pathlib import Path

from blspkd.errors import DataError, command
from blspkd.files import read_rows
from blspkd.reporting.textgrid import tiers_of, write_textgrid


@command
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--exp_dir", required=True, help="exp/<tag>")
    parser.add_argument("--set", required=True, dest="set_name", help="name of the set that was measured")
    parser.add_argument("--output_dir", required=True, help="gets <utt-id>.TextGrid")
    parser.add_argument("--utt_ids", nargs="+", help="only these utterances; without it all")
    args = parser.parse_args(words)
    folder = Path(args.exp_dir) / f"align_{args.set_name}"
    if not (folder / "align.json").is_file():
        raise DataError(f"{folder}: not there, or not finished; measure first (stage 4 with "
                        "--align_sets)")
    rows = {row["utt_id"]: row for row in read_rows(folder / "utterances.jsonl")}
    for utt_id in args.utt_ids or rows:
        if utt_id not in rows:
            raise DataError(f"{folder}: utterance {utt_id} was not measured; see utterances.jsonl for those that were")
        write_textgrid(Path(args.output_dir) / f"{utt_id}.TextGrid", rows[utt_id]["duration"], tiers_of(rows[utt_id]))
    print(f"{len(args.utt_ids or rows)} TextGrids in {args.output_dir}; open one in Praat together with its recording")


if __name__ == "__main__":
    main()
