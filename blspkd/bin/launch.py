"""Start a module as several processes that train together: torchrun, with its options, and what a training needs.

    python -m blspkd.bin.launch --standalone --nproc_per_node 2 --max_restarts 3 -m blspkd.bin.train ...

Processes that die are started again, --max_restarts times, but not after a mistake that only the user can mend.
SIGTERM or SIGUSR1, to this process or to any of those, stops all of them with a checkpoint; the exit status is 75 then.
"""

import argparse
import sys

from blspkd.errors import command


@command
def main(words: list[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     usage="%(prog)s [TORCHRUN'S OPTION ...] -m MODULE [ARGUMENT ...]")
    if words[:1] in ([], ["-h"], ["--help"]):
        parser.parse_args(["--help"])

    from blspkd.training.agent import launch

    sys.exit(launch(words))


if __name__ == "__main__":
    main()
