"""Does loading keep up? Real recordings -> Whisper features through the training's own data set and workers.

    python tools/benchmarks/loading.py --an4 DIR --librispeech DIR [--workers "0 1 2"] [--epochs 2] [--json FILE]

Prints seconds of audio per second, the same per second of processor time (what one core would do if it were free, which
a busy machine does not change), and the most memory that the process and its workers had in each epoch, which shows
whether loading an epoch leaves anything behind. The folders are those of the official layouts; a corpus
that is not named is left out. Nothing is downloaded: the features are those of Whisper's own settings (80 bins, 30 s).
"""

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

GOAL = 300  # times real time, on 2 cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--an4", type=Path, help="folder that holds etc/ and wav/")
    parser.add_argument("--librispeech", type=Path, help="folder that holds train-clean-100/ ...")
    parser.add_argument("--workers", default="0 1 2")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    import loading_part  # after the options, because torch takes seconds: --help answers at once

    from blspkd.files import atomic_write

    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; goal: {GOAL} x real time")
    rows = []
    for row in loading_part.run({"an4": args.an4, "librispeech": args.librispeech},
                                [int(number) for number in args.workers.split()], args.epochs):
        rows.append(row)
        print(f"{row.corpus:<12} {'padded to 30 s' if row.pad_to_30s else 'trimmed':<14}  {row.workers} workers  "
              f"{row.times_real_time:6.0f} x real time, {row.times_per_core:6.0f} per core   MiB by epoch: "
              + " ".join(f"{mib:.0f}" for mib in row.mib_by_epoch), flush=True)
    if args.json:
        with atomic_write(args.json) as file:
            json.dump([asdict(row) for row in rows], file, indent=1)


if __name__ == "__main__":
    main()
