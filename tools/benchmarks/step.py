"""The whole training step, ours against a straightforward one (`straightforward.py`): same weights, same utterances.

    tools/venv/bin/python tools/benchmarks/step.py [--device cpu|cuda] [--json FILE] [--markdown] [--quick]

What a step is and how it is measured: `step_part.py`.
"""

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is a GPU")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--markdown", nargs="?", type=Path, const=Path(__file__).with_name("RESULTS.md"),
                        help="write the section \"step\" of this file (default: RESULTS.md beside this program)")
    parser.add_argument("--quick", action="store_true", help="tiny models: only to see that it runs")
    options = parser.parse_args()

    import report  # after the options, because torch takes seconds: --help answers at once
    import step_part
    import torch

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    rows = step_part.run(device, options.quick)
    text = markdown(rows)
    print(text)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        about = "\n".join(f"- {line}" for line in report.environment())
        command = shlex.join(["tools/benchmarks/step.py", *sys.argv[1:]])
        report.write_section(f"step, {device}", f"`{command}`\n\n{about}\n\n{text}", options.markdown)


def markdown(rows: list) -> str:
    """Two tables: the `step_part.StepRow`s, and where the time goes."""
    head = ("case", "peer", "times faster", "utterances/s, ours and theirs", "useful LLM positions", "peak MiB")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for r in rows:
        peaks = "" if r.peer_peak_mib is None else f"{r.ours_peak_mib:.0f} and {r.peer_peak_mib:.0f}"
        faster = f"{r.speedup:.2f} ({r.spread[0]:.2f}-{r.spread[1]:.2f})"
        speeds = f"{r.ours_utterances_per_s:.2f} and {r.peer_utterances_per_s:.2f}"
        useful = f"{100 * r.ours_useful:.0f} % and {100 * r.peer_useful:.0f} %"
        lines.append("| " + " | ".join([r.case, r.peer, faster, speeds, useful, peaks]) + " |")
    parts = list(rows[0].ours_parts)
    lines += ["", "| share of the time, % | " + " | ".join(parts) + " |", "|---" * (len(parts) + 1) + "|"]
    columns = {"ours": rows[0].ours_parts, "ours, trimmed": rows[1].ours_parts, rows[0].peer: rows[0].peer_parts}
    for name, shares in columns.items():
        lines.append(f"| {name} | " + " | ".join(f"{100 * shares[part]:.0f}" for part in parts) + " |")
    return "\n".join(lines) + (f"\n\n{rows[0].utterances} utterances; {rows[0].note}. The two losses differ by "
                              f"{rows[0].max_abs_diff:.1g} of their value.\n")


if __name__ == "__main__":
    main()
