"""Write the page that a person looks at: python -m blspkd.bin.report --exp_dirs exp/a exp/b --output report.html.

One self-contained file with results, learning curves, alignment, and utterances to look at and listen to. Run it where
the other commands ran (a recipe's folder), so that the paths of the recordings hold.
"""

import argparse
import logging

from blspkd.errors import command


@command
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--exp_dirs", nargs="+", required=True,
                        help="exp/<tag> of every system or checkpoint; the alignment of the first one is drawn")
    parser.add_argument("--output", required=True, help="the page, e.g. exp/<tag>/report.html")
    parser.add_argument("--title", default="BLSP-KD: results")
    parser.add_argument("--num_chosen", type=int, default=6, help="utterances drawn by the seed")
    parser.add_argument("--num_worst", type=int, default=20, help="utterances with the largest response KL")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(words)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    from blspkd.reporting.report import write_report

    size = write_report(args.exp_dirs, args.output, title=args.title, num_chosen=args.num_chosen,
                        num_worst=args.num_worst, seed=args.seed)
    print(f"{args.output}: {size / (1 << 20):.1f} MB, everything in one file")


if __name__ == "__main__":
    main()
