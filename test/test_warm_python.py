"""The warm Python does what Python does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ARGUMENTS = """import json, os, sys
print(json.dumps([sys.argv, __name__, sys.path[0], os.getcwd(), sys.stdin.read()]))
"""


@pytest.fixture(scope="module")
def python(load_helper):
    """It has imported next to nothing: `json` for all programs, `wave` for those with our HF_* variables."""
    with load_helper("warm_python").serve(("json",), ("wave",)) as venv:
        yield venv / "bin" / "python"


def run(python: str | Path, *words: object, **options) -> subprocess.CompletedProcess:
    variables = options.pop("variables", {})
    return subprocess.run([python, *map(str, words)], capture_output=True, text=True, timeout=60, check=False,
                          **{"env": {**os.environ, "OMP_NUM_THREADS": "1", **variables}, **options})


@pytest.fixture
def programs(tmp_path) -> Path:
    (tmp_path / "module.py").write_text(ARGUMENTS)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/script.py").write_text(ARGUMENTS)
    return tmp_path


@pytest.mark.parametrize("words", [["-m", "module", "a b", "ü"], ["scripts/script.py", "--x"], ["-c", ARGUMENTS, "y"],
                                   ["-u", "-m", "module"], ["-m", "nothing"], ["nothing.py"], ["--version"]], ids=str)
def test_arguments_folder_and_streams_are_those_of_python(python, programs, words):
    warm, cold = (run(name, *words, cwd=programs, input="typed") for name in (python, sys.executable))
    assert (warm.returncode, warm.stdout) == (cold.returncode, cold.stdout)
    assert bool(warm.stderr) == bool(cold.stderr)


@pytest.mark.parametrize("code", [
    "raise SystemExit(3)", "exit('a message')", "exit()", "1 / 0", "print('x'); exit(True)", "import os; os._exit(9)",
    "import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "import atexit; atexit.register(print, 'last')"])
def test_it_ends_as_python_does(python, code):
    warm, cold = (run(name, "-c", code) for name in (python, sys.executable))
    assert (warm.returncode, warm.stdout) == (cold.returncode, cold.stdout)
    assert warm.stderr.splitlines()[-1:] == cold.stderr.splitlines()[-1:]


def test_the_environment_is_that_of_the_caller(python, tmp_path):
    done = run(python, "-c", "import os, sys; print(os.environ['PROBE'], sys.path[1], 'HOME' in os.environ)",
               env={"PROBE": "x y", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)})
    assert done.stdout == f"x y {tmp_path} False\n", done.stderr


def test_a_program_with_another_hub_finds_only_what_reads_no_variable_imported(python):
    code = "import sys; print('json' in sys.modules, 'wave' in sys.modules)"
    assert run(python, "-c", code).stdout == "True True\n"
    assert run(python, "-c", code, variables={"HF_ENDPOINT": "http://localhost"}).stdout == "True False\n"
    assert run(python, "-c", code, variables={"OMP_NUM_THREADS": "2"}).stdout == "False False\n"


def test_programs_do_not_see_each_other(python):
    run(python, "-c", "import json, os; json.loads = os.environ['PROBE'] = 'changed'; os.chdir('/')")
    done = run(python, "-c", "import json, os; print(json.loads('1'), os.environ.get('PROBE'))")
    assert done.stdout == "1 None\n"


WAITING = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_the_program_and_it_does_not_outlive_its_caller(python, number):
    process = subprocess.Popen([python, "-c", WAITING], stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})
    program = int(process.stdout.readline())
    process.send_signal(number)
    assert process.wait(30) == -number
    until = time.monotonic() + 30
    while is_alive(program) and time.monotonic() < until:
        time.sleep(0.01)
    assert not is_alive(program)
    process.stdout.close()


def test_a_program_may_handle_a_signal(python):
    code = ("import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(5)); print('on', flush=True)\n"
            "while True: time.sleep(0.1)")
    process = subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 5
    process.stdout.close()


def test_the_first_start_may_be_cold(python, programs, tmp_path):
    (tmp_path / "cold").mkdir()
    (programs / "module.py").write_text("import sys; print('json' in sys.modules)")
    found = [run(python, "-m", "module", cwd=programs, variables={"COLD": str(tmp_path / "cold")}).stdout
             for _ in range(2)]
    assert found == ["False\n", "True\n"]
