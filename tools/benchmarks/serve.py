"""A server under load: many requests at once, many in a row, and what it adds to the Python API.

    tools/venv/bin/python tools/benchmarks/serve.py MODEL [--audio FILE ...] [--threads 1] [--json FILE]

Prints the throughput of 50 requests at once and of as many one after another, and whether each reply is that of the
Python API; memory over 500 requests; the time of one request beside the same call in Python; and the time to the first
piece of text beside that of listening alone. The server is a process of its own on this machine. Recordings differ from
request to request, because a model remembers the last ones that it heard.
"""

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or hub id of a trained model")
    parser.add_argument("--audio", nargs="+", type=Path, default=[], help="recordings; default: made-up ones")
    parser.add_argument("--requests", type=int, default=500, help="in a row, for the memory")
    parser.add_argument("--at_once", type=int, default=50)
    parser.add_argument("--max_tokens", type=int, default=32)
    parser.add_argument("--instruction", default="Repeat the following text.")
    parser.add_argument("--threads", type=int, default=1, help="of torch; more than the machine has free measures that")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    import serve_part  # after the options, because torch takes seconds: --help answers at once

    from blspkd.files import atomic_write

    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    rows = []
    for row in serve_part.run(args.model, args.audio, args.instruction, args.requests, args.at_once, args.max_tokens,
                              args.threads):
        rows.append(row)
        print(f"{row.what:<66} {row.value:10.3f} {row.unit:<12} {row.bar}", flush=True)
    if args.json:
        with atomic_write(args.json) as file:
            json.dump([asdict(row) for row in rows], file, indent=1)


if __name__ == "__main__":
    main()
