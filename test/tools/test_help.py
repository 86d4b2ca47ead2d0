"""The tools' --help answers at once: nothing heavy is imported for it."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
HEAVY = ("torch", "transformers", "numpy", "matplotlib")


@pytest.mark.parametrize("name", ["benchmarks/core.py", "benchmarks/loading.py", "benchmarks/scale.py",
                                  "benchmarks/serve.py", "benchmarks/step.py", "check_install.py"])
def test_help_waits_for_no_heavy_package(name):
    code = (f"import runpy, sys; sys.argv = ['x', '--help']; sys.path.insert(0, {str((TOOLS / name).parent)!r})\n"
            f"try: runpy.run_path({str(TOOLS / name)!r}, run_name='__main__')\n"
            f"finally: print(*set({HEAVY}) & set(sys.modules), file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "") and "usage:" in done.stdout


def test_what_has_no_options_is_no_program():
    """A file that runs something must understand --help."""
    programs = [path for path in TOOLS.rglob("*.py") if "venv" not in path.relative_to(TOOLS).parts[0]
                and "__main__" in path.read_text(encoding="utf-8")]
    assert {path.name for path in programs} == {"core.py", "loading.py", "scale.py", "serve.py", "step.py",
                                                "check_install.py", "constraints.py"}
