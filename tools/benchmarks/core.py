"""Every part of the computational core beside its peers: equality first, then times in turns and peak memory.

    tools/venv/bin/python tools/benchmarks/core.py [--device cpu|cuda] [--parts cif,kd] [--json FILE] [--markdown]

"times faster" is the median over the turns of peer / ours with the quartiles of the turns; "x floor" is ours / the
least time that memory or arithmetic allows, measured in the same run; MiB are peaks above what was there before the
call. Where ours is not what the plain way gives, the notes say WRONG and the exit status is 1.
"""

import argparse
import dataclasses
import importlib
import json
import os
import sys
import time
from pathlib import Path

PARTS = ("cif", "kd", "plora", "batching", "encoder")


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.huge_pages and "THP_MEM_ALLOC_ENABLE" not in os.environ:  # torch reads it when it starts
        os.environ["THP_MEM_ALLOC_ENABLE"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    import measure  # after the options, because torch takes seconds: --help answers at once
    import report
    import torch

    from blspkd.reporting.environment import without_machine_paths

    measure.most_turns = options.turns
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    about = report.environment() + [f"pages: {'huge' if options.huge_pages else 'as the system gives them'}"]
    print("\n".join(about), flush=True)
    rows, start = [], time.monotonic()
    for done, part in enumerate(options.parts):
        passed = time.monotonic() - start
        left = f", about {passed / done * (len(options.parts) - done):.0f} s left" if done else ""
        print(f"[{done + 1}/{len(options.parts)}] {part} (after {passed:.0f} s{left})", file=sys.stderr, flush=True)
        rows += run_part(part, device, options.quick)
    print("\n" + report.screen(rows))
    if options.json:
        text = json.dumps([dataclasses.asdict(row) for row in rows], indent=1)
        Path(options.json).write_text(text + "\n", encoding="utf-8")
    if options.markdown:
        words = ["tools/benchmarks/core.py", *(sys.argv[1:] if arguments is None else arguments)]
        command = without_machine_paths(words, Path.cwd())
        text = f"`{command}`\n\n" + "\n".join(f"- {line}" for line in about) + "\n\n" + report.markdown(rows)
        report.write_section("core", text, Path(options.markdown))
    wrong = [f"{row.part} {row.case} {row.peer}: {row.note}" for row in rows if row.wrong]
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        sys.exit(1)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is a GPU")
    parser.add_argument("--parts", type=parts, default=PARTS, help=f"comma-separated, of {','.join(PARTS)}")
    parser.add_argument("--turns", type=int, help="at most so many turns, 2 or more (default: as each part needs)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only to see that it runs")
    parser.add_argument("--huge_pages", action="store_true", help="let torch ask for 2 MiB pages (Linux, CPU)")
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--markdown", nargs="?", const=str(Path(__file__).with_name("RESULTS.md")),
                        help="write the section \"core\" of this file (default: RESULTS.md beside this program)")
    return parser.parse_args(arguments)


def parts(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not one of {', '.join(PARTS)}")
    return names


def run_part(part: str, device: str, quick: bool) -> list:
    """The `measure.Row`s of `<part>_part.py`; one that says so where a package that it needs is missing."""
    from measure import Row

    try:
        return importlib.import_module(f"{part}_part").run(device, quick)
    except ImportError as error:
        print(f"{part}: left out, {error}", file=sys.stderr, flush=True)
        return [Row(part, "", "", note=f"left out: {error}")]


if __name__ == "__main__":
    main()
