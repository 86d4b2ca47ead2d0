"""Score decoded test sets: python -m blspkd.bin.score --config conf/decode.yaml --exp_dir exp/tag --test_sets "a b".

Writes score.json in every decode directory, and exp/tag/results.json.
"""

import argparse
import logging

from blspkd.errors import command
from blspkd.evaluation.scorers import load_decode_config
from blspkd.evaluation.scoring import score_experiment


@command
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False,
                                     epilog="every key of the configuration is an option too: --num_bootstrap 2000")
    parser.add_argument("--config", help="conf/decode.yaml: tasks and their metrics")
    parser.add_argument("--exp_dir", required=True, help="exp/<tag>, with the decode directories")
    parser.add_argument("--test_sets", required=True, help="names of the test sets, separated by spaces")
    args, overrides = parser.parse_known_args(words)
    config = load_decode_config(args.config, overrides)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    logging.getLogger("blspkd").setLevel(logging.INFO)
    score_experiment(args.exp_dir, config, args.test_sets.split())


if __name__ == "__main__":
    main()
