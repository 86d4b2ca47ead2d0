"""Scores by year of training and year of test: does a model age with its data?

    python -m blspkd.bin.years --config conf/decode.yaml --exp_dirs exp/2019 exp/2020 --test_sets test --task translate

Every test set needs utt2date. One row per experiment, which stage 4 has evaluated; what it was trained on is known
where its configuration has `data: {operations: [{name: filter, years: [2019]}]}`.
"""

import argparse
import json
from dataclasses import asdict

from blspkd.errors import ConfigError, command
from blspkd.evaluation.by_year import scores_by_year
from blspkd.evaluation.decode_dir import SUFFIX
from blspkd.evaluation.scorers import load_decode_config
from blspkd.files import atomic_write
from blspkd.reporting.year_table import markdown


@command
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="conf/decode.yaml: tasks and their metrics")
    parser.add_argument("--exp_dirs", required=True, nargs="+", metavar="EXP_DIR", help="exp/<tag>, one row each")
    parser.add_argument("--test_sets", required=True, help="names, separated by spaces; scored together")
    parser.add_argument("--data_dir", default="data", help="folder of the test sets, for their utt2date")
    parser.add_argument("--task", required=True, help="one of the configuration's")
    parser.add_argument("--metric", help="default: the task's first")
    parser.add_argument("--system", default="speech", choices=SUFFIX)
    parser.add_argument("--output", help="Markdown file; the numbers as JSON are written beside it")
    args, overrides = parser.parse_known_args(words)
    config = load_decode_config(args.config, overrides)
    metrics = config.tasks[args.task].metrics if args.task in config.tasks else ()
    if not (args.metric or metrics):
        raise ConfigError(f"task: '{args.task}' has no metric in {args.config or 'the defaults'}; tasks there: "
                          f"{', '.join(config.tasks) or 'none'}")
    metric = args.metric or metrics[0]
    rows = [scores_by_year(exp_dir, config, args.task, metric, args.test_sets.split(), args.data_dir, args.system)
            for exp_dir in args.exp_dirs]
    table = markdown(rows, args.task, metric)
    print(table)
    if args.output:
        with atomic_write(args.output) as file:
            file.write(table + "\n")
        with atomic_write(f"{args.output}.json") as file:
            json.dump([asdict(row) for row in rows], file, indent=1)


if __name__ == "__main__":
    main()
