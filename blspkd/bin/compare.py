"""Stage 5, the comparison of systems: what is to be done, and what came out.

    python -m blspkd.bin.compare plan  --config conf/compare.yaml --conf_dir conf/compare --budget full \\
        --exp_dir exp/compare_full --decode_config conf/decode.yaml
    python -m blspkd.bin.compare table ... --test_sets "heard unheard"

`plan` reads all configurations, so that a mistake in any of them ends it, and prints a line per run, for
utils/compare_run.sh: name, system, configuration, seed, what it reads, training steps, systems to decode, utterances of
each set, steps after which it is measured too, the run whose model it decodes otherwise, how, and what is merged with
it; the time that is left goes to the log. `table` writes results.json and comparison.json into exp_dir and prints the
tables.
"""

import argparse
import logging
import shlex
import sys
from pathlib import Path

from blspkd.config_file import load_config
from blspkd.errors import DataError, command
from blspkd.evaluation.changed_answers import update_changed_results
from blspkd.evaluation.comparison import (
    Comparison,
    all_rows,
    measure,
    measure_controls,
    measure_snapshots,
    write_comparison,
)
from blspkd.evaluation.comparison_plan import Run, check_typed, finished_runs, plan, strangers
from blspkd.evaluation.cost import update_cost_results
from blspkd.evaluation.results import write_results
from blspkd.evaluation.scorers import load_decode_config
from blspkd.evaluation_config import CompareConfig
from blspkd.reporting.comparison_page import screen
from blspkd.reporting.comparison_time import time_left


@command
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("plan", "table"))
    parser.add_argument("--config", required=True, help="conf/compare.yaml: systems, seeds, budgets")
    parser.add_argument("--conf_dir", required=True, help="folder of the systems' configurations")
    parser.add_argument("--budget", default="full", help="one of the configuration's budgets")
    parser.add_argument("--exp_dir", required=True, help="folder of the runs")
    parser.add_argument("--trained_before", help="plan: exp/<tag> of a training, whose speed tells the time to expect")
    parser.add_argument("--num_jobs", type=int, default=1, help="plan: trainings side by side")
    parser.add_argument("--train_args", default="",
                        help="what overrides every training's configuration: '--bf16 false'")
    parser.add_argument("--decode_config", help="conf/decode.yaml, tasks and metrics; all its keys are options too")
    parser.add_argument("--test_sets", default="", help="table: names of the test sets")
    args, overrides = parser.parse_known_args(words)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S", stream=sys.stderr)
    logging.getLogger("blspkd").setLevel(logging.INFO)
    config = load_config(CompareConfig, args.config)
    overrides_of_all = shlex.split(args.train_args)
    if args.verb == "plan":
        from blspkd.training.run import resolved  # imports torch, which `table` need not wait for

        runs = plan(config, args.budget, args.conf_dir, overrides_of_all, check=resolved)
    else:
        runs = plan(config, args.budget, args.conf_dir, overrides_of_all)
    decoding = load_decode_config(args.decode_config, overrides)
    if args.verb == "plan":
        check_typed(runs, decoding, args.decode_config)
        others = strangers(runs, args.exp_dir)
        if others:
            logging.getLogger("blspkd").warning("%s: no run of this plan, and in no table: %s", args.exp_dir,
                                                ", ".join(others))
        logging.getLogger("blspkd").info(time_left(runs, args.exp_dir, args.trained_before, args.num_jobs))
        for run in runs:
            print("\t".join([run.name, run.system, str(run.config), "-" if run.seed is None else str(run.seed),
                             run.reads or "-", str(run.max_steps), systems_to_decode(run),
                             str(config.budgets[args.budget].max_utterances),
                             ",".join(map(str, run.snapshots)) or "-", run.of or "-", run.inference or "-",
                             run.merge or "-"]))
        return
    there = finished_runs(runs, args.exp_dir)
    if len(there) < len(runs):
        missing = ", ".join(run.name for run in runs if run not in there)
        logging.getLogger("blspkd").warning("left out, because they are not done: %s", missing)
        runs = there
    if config.reference not in {run.system for run in runs}:
        raise DataError(f"{args.exp_dir}: no run of {config.reference} is done, with which the others are compared")
    for run in runs:
        if not run.reads and not run.of:
            update_cost_results(Path(args.exp_dir) / run.name, run.max_steps)
        if run.beside:
            update_changed_results(args.exp_dir, run, decoding, args.test_sets.split())
    measured = measure(runs, config.reference, args.exp_dir, decoding, args.test_sets.split())
    comparison = Comparison(config.reference, args.budget, config.budgets[args.budget].max_steps, measured,
                            measure_snapshots(runs, args.exp_dir, args.test_sets.split()),
                            measure_controls(measured, runs, config.controls, args.exp_dir, decoding))
    write_results(Path(args.exp_dir) / "results.json", all_rows(runs, args.exp_dir))
    write_comparison(Path(args.exp_dir) / "comparison.json", comparison)
    print(screen(comparison))


def systems_to_decode(run: Run) -> str:
    """As conf/decode.yaml names them: chance is measured once; text only where training could have changed it."""
    if run.reads:
        return f"[{run.decoded_as}]"
    names = ["speech"]
    if run.chance:
        names.append("chance")
    if run.trains_llm:
        names.append("text")
    return f"[{','.join(names)}]"


if __name__ == "__main__":
    main()
