"""Put the parts of stage 2 together: `continuation` and `continuation.info.json` in the data directory."""

import argparse
from pathlib import Path

from blspkd.errors import command


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--data_dir", required=True, type=Path, help="data directory with a folder continuation.parts")
    args = parser.parse_args(argv)

    from blspkd.data.kaldi_dir import KaldiDir
    from blspkd.generation.parts import is_merged, merge, parts_dir, summary

    transcripts = {utterance.utt_id: utterance.text for utterance in KaldiDir.read(args.data_dir, need_audio=False)}
    if not parts_dir(args.data_dir).is_dir() and is_merged(args.data_dir, transcripts):
        print(f"{args.data_dir}/continuation: up to date")
        return
    info = merge(args.data_dir, transcripts)
    print(f"{args.data_dir}/continuation: {summary(info['counts'])}")


if __name__ == "__main__":
    main()
