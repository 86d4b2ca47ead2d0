"""Copies of a data directory with something planted in its continuations, and the controls (stage 5, budget `scored`).

    python base/plant_continuations.py bad data/train data/train_bad --foreign data/local/lm/train.jsonl [--share 0.3]
    python base/plant_continuations.py styles data/train_bad data/train_scored [--seed 0]
    utils/data_dir.sh score data/train_scored --rules "empty looped length foreign"
    python base/plant_continuations.py shuffle data/train_scored utt2score utt2score_random [--seed 0]
    python base/plant_continuations.py shuffle data/train_scored utt2tags utt2tags_random [--seed 0]
    ./run.sh --stage compare --stop_stage compare --compare_budget scored --train_set train_scored \\
        --inference_config conf/decode_scored.yaml --expdir exp/scored

`bad` replaces a share of the continuations, by turns, by a loop of their own words and by text in another language (the
outputs of one task among rows {"task", "output"}); `utt2planted` says which. `styles` writes the numbers of half of the
continuations in digits and tells by `utt2tags` which half. `shuffle` deals the values of a table out among the same
utterances anew: scores with the same histogram, or tags, that mean nothing.
"""

import argparse
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from blspkd.errors import ConfigError, DataError, command
from blspkd.files import read_rows
from blspkd.kaldi import verbs
from blspkd.kaldi.tables import read_continuations, read_table, write_continuations, write_table

LOOP_WORDS = (1, 3)  # words of what is repeated
LOOP_REPEATS = (5, 8)  # and how often: more than what counts as a loop
DIGITS = {word: str(number) for number, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve".split())} | {"twenty": "20"}
_NUMBER = re.compile(rf"\b(?:{'|'.join(DIGITS)})\b")


def plant_bad(continuations: Mapping[str, str], foreign: Sequence[str], share: float, seed: int
              ) -> tuple[dict[str, str], dict[str, str]]:
    """The continuations with `share` of them replaced, and {utt-id: looped, foreign or none}."""
    rng = random.Random(f"planted {seed}")
    chosen = rng.sample(sorted(continuations), round(share * len(continuations)))
    planted = dict.fromkeys(continuations, "none")
    replaced = dict(continuations)
    for number, utt_id in enumerate(chosen):
        planted[utt_id] = "foreign" if number % 2 else "looped"
        replaced[utt_id] = rng.choice(foreign) if number % 2 else loop(continuations[utt_id], rng)
    return replaced, planted


def loop(text: str, rng: random.Random) -> str:
    """A few neighbouring words of `text` again and again."""
    words = text.split()
    size = min(len(words), rng.randint(*LOOP_WORDS))
    first = rng.randint(0, len(words) - size)
    return " ".join(words[first:first + size] * rng.randint(*LOOP_REPEATS))


def with_digits(text: str) -> str:
    """`the six red bags` -> `the 6 red bags`."""
    return _NUMBER.sub(lambda word: DIGITS[word[0]], text)


def shuffled(table: Mapping[str, str], seed: int) -> dict[str, str]:
    """The same values, each for an utterance drawn by the seed."""
    values = list(table.values())
    random.Random(f"shuffled {seed}").shuffle(values)
    return dict(zip(table, values, strict=True))


def bad(args: argparse.Namespace) -> None:
    if not 0 < args.share < 1:
        raise ConfigError(f"share: {args.share:g} is no share between 0 and 1")
    foreign = [row["output"] for row in read_rows(args.foreign) if row.get("task") == args.task]
    if not foreign:
        raise DataError(f"{args.foreign}: has no rows of the task {args.task}; name another file or --task")
    continuations = copy(args.source, args.destination)
    replaced, planted = plant_bad(continuations, foreign, args.share, args.seed)
    write_continuations(args.destination / "continuation", replaced)
    write_table(args.destination / "utt2planted", planted)
    told = ", ".join(f"{list(planted.values()).count(kind)} {kind}" for kind in ("looped", "foreign", "none"))
    print(f"{args.destination}: {told}")


def styles(args: argparse.Namespace) -> None:
    continuations = copy(args.source, args.destination)
    ids = list(read_table(args.destination / "utt2spk"))
    in_digits = set(random.Random(f"styles {args.seed}").sample(sorted(ids), len(ids) // 2))
    write_continuations(args.destination / "continuation", {
        utt_id: with_digits(text) if utt_id in in_digits else text for utt_id, text in continuations.items()})
    write_table(args.destination / "utt2tags", {
        utt_id: f"task=continue language=en style={'digits' if utt_id in in_digits else 'words'}" for utt_id in ids})
    print(f"{args.destination}: {len(in_digits)} utterances of {len(ids)} with digits")


def shuffle(args: argparse.Namespace) -> None:
    write_table(args.directory / args.to, shuffled(read_table(args.directory / args.table), args.seed))
    print(f"{args.directory}/{args.to}: the values of {args.table}, dealt out anew")


def copy(source: Path, destination: Path) -> dict[str, str]:
    """Copy a data directory; returns its continuations."""
    continuations = read_continuations(source / "continuation")
    verbs.subset(source, destination, read_table(source / "utt2spk"))
    return continuations


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True, metavar="VERB")
    for function in (bad, styles, shuffle):
        verb = kinds.add_parser(function.__name__)
        verb.set_defaults(run=function)
        if function is shuffle:
            verb.add_argument("directory", type=Path)
            verb.add_argument("table", help="of the directory, e.g. utt2score")
            verb.add_argument("to", help="the new table, e.g. utt2score_random")
        else:
            verb.add_argument("source", type=Path)
            verb.add_argument("destination", type=Path)
        if function is bad:
            verb.add_argument("--share", type=float, default=0.3, help="of the continuations (default: 0.3)")
            verb.add_argument("--foreign", type=Path, required=True, help="JSONL rows, e.g. data/local/lm/train.jsonl")
            verb.add_argument("--task", default="translate", help="whose outputs are foreign (default: translate)")
        verb.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
