"""Put the parts of stage 2 together: `continuation` and `continuation.info.json` in the data directory."""

import argparse
from pathlib import Path

from blspkd.errors import command
from blspkd.generation.merge import MAX_BAD_RATIO, is_merged, merge, summary
from blspkd.generation.parts import parts_dir


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--data_dir", required=True, type=Path, help="data directory with a folder continuation.parts")
    parser.add_argument("--max_bad_ratio", type=float, default=MAX_BAD_RATIO, metavar="SHARE",
                        help="largest share of the utterances that the filters may drop (default: %(default)s)")
    args = parser.parse_args(argv)

    from blspkd.kaldi.transcripts import Transcripts

    transcripts = Transcripts.read(args.data_dir)
    if not parts_dir(args.data_dir).is_dir() and is_merged(args.data_dir, transcripts):
        print(f"{args.data_dir}/continuation: up to date")
        return
    info = merge(args.data_dir, transcripts, args.max_bad_ratio)
    print(f"{args.data_dir}/continuation: {summary(info['counts'])}")


if __name__ == "__main__":
    main()
