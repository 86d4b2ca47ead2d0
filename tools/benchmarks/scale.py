"""What grows with the corpus, and how fast the stages are: figures for README's section on scale.

    python tools/benchmarks/scale.py [--parts "start stage1 stage2 training"] [--utterances "10000 100000 1000000"]
        [--unpacked N] [--stage1 N] [--quick] [--folder DIR] [--json FILE] [--markdown [FILE]]

start: seconds and private memory of a process from the opening of its data to the first batch, of packed directories
(`data_dir pack`; with the files in the page cache and thrown out of it) and, up to --unpacked utterances, of the data
directory itself. stage1: the verbs of stage 1, up to --stage1 utterances. stage2: continuations by an LLM of 135 M
random parameters. training: two processes with that LLM, parts of a step by rank, checkpoints. All corpora and models
are made up, and each figure is measured on this machine, or marked as extrapolated: what grows with the utterances, by
the straight line through its two largest corpora. Needs 2 GB of disk per million utterances.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

PARTS = "start stage1 stage2 training"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=PARTS)
    parser.add_argument("--utterances", default="10000 100000 1000000")
    parser.add_argument("--unpacked", type=int, default=100_000, help="most utterances of a directory that is opened")
    parser.add_argument("--stage1", type=int, default=1_000_000, help="most utterances of a directory of stage 1")
    parser.add_argument("--quick", action="store_true", help="small models and few steps: does it run?")
    parser.add_argument("--folder", type=Path, help="where the corpora are made; default: a temporary folder")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path, nargs="?", const=Path(__file__).parent / "RESULTS.md",
                        help="put the table into this file, as its section `scale`")
    args = parser.parse_args()
    strange = sorted(set(args.parts.split()) - set(PARTS.split()))
    if strange:
        parser.error(f"--parts: there is no {strange[0]}; known: {PARTS}")
    if not all(word.isdecimal() and int(word) for word in args.utterances.split()):
        parser.error(f"--utterances: '{args.utterances}' are no numbers above 0 with blanks between them")
    if args.folder and not args.folder.is_dir():
        parser.error(f"--folder: {args.folder} is no folder")

    from report import environment, write_section  # after the options: torch takes seconds
    from scale_row import extrapolated

    from blspkd.files import atomic_write

    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for row in measure(Path(folder), args):
            rows.append(row)
            print("  ".join(cells(row)), flush=True)
    far = extrapolated(rows)
    if far:
        print("\nextrapolated, not measured:")
    for row in far:
        print("  ".join(cells(row)))
    if args.json:
        with atomic_write(args.json) as file:
            json.dump([asdict(row) for row in [*rows, *far]], file, indent=1)
    if args.markdown:
        write_section("scale", "\n".join([*(f"{line}  " for line in environment()), "", markdown(rows), "",
                                          "Extrapolated, not measured:", "", markdown(far)]), args.markdown)


def measure(folder: Path, args: argparse.Namespace) -> Iterator:
    """The rows of all parts that are asked for."""
    import scale_stages
    import scale_start
    import scale_training

    parts, sizes = args.parts.split(), [int(number) for number in args.utterances.split()]
    llm = scale_start.make_tokenizer(folder / "llm")
    if "start" in parts:
        yield from scale_start.run(folder, sizes, args.unpacked, llm)
    if "stage1" in parts:
        for number in sizes:
            if number <= args.stage1:
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    data = scale_start.make_data_dir(Path(place) / "data", number, llm)
                    yield from scale_stages.stage_1(data, number)
    if args.quick:
        scale_stages.LLM.update(hidden_size=144, intermediate_size=288, num_hidden_layers=4)
    if "stage2" in parts or "training" in parts:
        model = scale_stages.make_llm(folder / "model", llm)
    if "stage2" in parts:
        yield from scale_stages.stage_2(folder, model, (8, 72) if args.quick else (64, 256))
    if "training" in parts:
        yield from scale_training.training(folder, model, 10 if args.quick else 40)


def cells(row) -> list[str]:
    """A row as columns of fixed width."""
    utterances = f"{row.utterances:,}" if row.utterances else ""
    return [f"{row.part:<8}", f"{utterances:>11}", f"{row.what:<84}", f"{row.value:10.4g}", f"{row.unit:<5}", row.bar]


def markdown(rows: list) -> str:
    """A Markdown table."""
    lines = ["| part | utterances | what | value | bar |", "| --- | ---: | --- | ---: | --- |"]
    for row in rows:
        utterances = f"{row.utterances:,}" if row.utterances else ""
        lines.append(f"| {row.part} | {utterances} | {row.what} | {row.value:,.4g} {row.unit} | {row.bar} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
