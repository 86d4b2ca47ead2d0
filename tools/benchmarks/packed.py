"""How long does a training take to begin? Opening the data of N utterances up to its first batch, packed and not.

    python tools/benchmarks/packed.py [--utterances "10000 1000000"] [--unpacked N] [--folder DIR] [--json FILE]

Prints, for made-up corpora of N utterances, the seconds to pack them (every text is tokenised, and every recording
checked, once, for they repeat), and then, in a new process: the seconds from opening the packed directory to the first
batch (with the files in the page cache, and thrown out of it), private memory that remains and its peak on the way, and
the seconds to plan an epoch. Up to `--unpacked` utterances the data directory itself is opened, too. Needs 3 GB of disk
per million utterances.
"""

import argparse
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", default="10000 100000 1000000")
    parser.add_argument("--unpacked", type=int, default=100_000, help="most utterances of a directory that is opened")
    parser.add_argument("--folder", type=Path, help="where the corpora are made; default: a temporary folder")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    import packed_part  # after the options, because torch takes seconds: --help answers at once

    from blspkd.files import atomic_write

    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for row in packed_part.run(Path(folder), [int(number) for number in args.utterances.split()], args.unpacked):
            rows.append(row)
            print(f"{row.utterances:>9} {row.what:<60} {row.value:9.2f} {row.unit:<4} {row.bar}", flush=True)
    if args.json:
        with atomic_write(args.json) as file:
            json.dump([asdict(row) for row in rows], file, indent=1)


if __name__ == "__main__":
    main()
