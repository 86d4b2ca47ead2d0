"""Print the results and write RESULTS.md: python -m blspkd.bin.results --exp_dir exp/tag --output RESULTS.md."""

import argparse
import shlex
import sys
from pathlib import Path

from blspkd.errors import ConfigError, command
from blspkd.evaluation.comparison import read_comparison
from blspkd.evaluation.results import read_results
from blspkd.reporting import comparison_page
from blspkd.reporting.environment import describe_environment, git_commit, without_machine_paths
from blspkd.reporting.results_page import Page, read_examples, read_stage_times, screen, write_page


@command
def main(words: list[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--exp_dir", required=True, help="exp/<tag>, with results.json")
    parser.add_argument("--stage_times", help="lines: stage, name, seconds, peak_mib, date, between tabs")
    parser.add_argument("--output", help="RESULTS.md to write; without it the results are only printed")
    parser.add_argument("--preamble", help="Markdown put at the top: what this recipe is")
    parser.add_argument("--comparison", help="comparison.json of stage 5, whose tables go into the page as well")
    parser.add_argument("--command_line", help="the command that made all this, e.g. './run.sh --stage 1'")
    args = parser.parse_args(words)
    page = Page(read_results(Path(args.exp_dir) / "results.json"), read_examples(args.exp_dir),
                read_stage_times(args.stage_times),
                comparison_page.markdown(read_comparison(args.comparison)) if args.comparison else "")
    print(screen(page))
    if args.output is None:
        return
    if args.preamble and not Path(args.preamble).is_file():
        raise ConfigError(f"--preamble {args.preamble}: there is no such file")
    preamble = Path(args.preamble).read_text(encoding="utf-8") if args.preamble else ""
    made_by = shlex.split(args.command_line or "") or ["python", "-m", "blspkd.bin.results", *words]
    write_page(args.output, page, describe_environment(), git_commit(Path.cwd(), but=[args.output]),
               without_machine_paths(made_by, Path.cwd()), preamble)


if __name__ == "__main__":
    main()
