"""What a filter finds of planted errors: recall and precision of each rule.

    python base/filter_recall.py --planted data/train_planted/planted.json --report data/train_filtered/filter.json

`planted.json` is that of base/plant_errors.py, `filter.json` that of `data_dir filter`. Of a rule, recall is the share
of its planted errors that it left out, precision the share of what it left out that was planted for it; "any rule"
counts what another rule found first. Of two duplicates the filter keeps the first, which is the original.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from blspkd.data.operations.verdicts import DUPLICATE, NOISY, WRONG
from blspkd.errors import DataError, command
from blspkd.files import read_json

RULES = {"wrong": WRONG, "noisy": NOISY, "duplicates": DUPLICATE}  # planted -> the reason that should find it


@dataclass(frozen=True)
class Found:
    """One kind of planted error."""

    planted: int
    left_out: int  # by its rule
    hits: int  # of these, planted
    by_any: int  # planted ones that are left out at all

    @property
    def recall(self) -> float:
        return self.hits / self.planted if self.planted else float("nan")

    @property
    def precision(self) -> float:
        return self.hits / self.left_out if self.left_out else float("nan")


def compare(planted: Mapping, report: Mapping) -> dict[str, Found]:
    """By the names of RULES. planted, report: the two files."""
    left_out = {utt_id for utterances in report["left_out"].values() for utt_id in utterances}
    found = {}
    for kind, reason in RULES.items():
        own, by_rule = set(planted[kind]), set(report["left_out"][reason])
        found[kind] = Found(len(own), len(by_rule), len(own & by_rule), len(own & left_out))
    return found


def lost(planted: Mapping, report: Mapping) -> int:
    """Utterances left out by whatever rule although nothing was planted in them."""
    touched = {utt_id for kind in RULES for utt_id in planted[kind]}
    return len({utt_id for utterances in report["left_out"].values() for utt_id in utterances} - touched)


def table(found: Mapping[str, Found], lost_good: int) -> str:
    lines = [f"{'planted':<12}{'n':>7}{'left out':>10}{'hits':>7}{'recall':>9}{'precision':>11}{'any rule':>10}"]
    lines += [f"{kind:<12}{one.planted:>7}{one.left_out:>10}{one.hits:>7}{one.recall:>9.1%}{one.precision:>11.1%}"
              f"{one.by_any:>10}" for kind, one in found.items()]
    return "\n".join([*lines, f"left out with nothing planted: {lost_good}"])


@command
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planted", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--output", type=Path, help="the counts as JSON")
    args = parser.parse_args(words)
    planted, report = read_json(args.planted), read_json(args.report)
    for path, values, key in ((args.planted, planted, "wrong"), (args.report, report, "left_out")):
        if key not in values:
            raise DataError(f"{path}: is missing or no {'report of a filter' if values is report else 'record'}; see "
                            "--help for what writes it")
    found = compare(planted, report)
    print(table(found, lost(planted, report)))
    if args.output:
        args.output.write_text(json.dumps({kind: vars(one) | {"recall": one.recall, "precision": one.precision}
                                           for kind, one in found.items()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
