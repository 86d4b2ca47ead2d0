"""The installation: what the Makefile runs, when it does nothing, and what it says when it cannot."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PYTEST = "tools/venv/bin/python -m pytest -q test"


def run(*words, **variables) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("PYTHON", "VENV", "TORCH_VERSION", "EXTRAS", "CONSTRAINTS", "MAKEFLAGS", "MAKELEVEL",
                                   "PYTHONPATH")}
    return subprocess.run([str(word) for word in words], env={**environment, **variables}, capture_output=True,
                          text=True, timeout=300, check=False)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The files that an installation reads, in a folder whose name has a space."""
    root = tmp_path / "a checkout"
    (root / "tools").mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "tools/Makefile", "tools/install.sh", "tools/constraints.txt",
                 "tools/constraints.py"):
        shutil.copy(ROOT / name, root / name)
    return root


@pytest.fixture
def environment(tmp_path) -> Path:
    """A stand-in for an environment: its python writes down how pip is called, and answers the rest as Python does."""
    venv = tmp_path / "some venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()
    python = venv / "bin" / "python"
    python.write_text('#!/bin/sh\n'
                      f'pip() {{ echo "$@" >> "{tmp_path}/pip.log"; exit "${{PIP_STATUS:-0}}"; }}\n'
                      'if [ "$1 $2 $3" = "-m pip --version" ]; then exit 0; fi\n'
                      'if [ "$1 $2" = "-m pip" ]; then pip "$@"; fi\n'
                      'if [ "$1" = "-m" ]; then echo "$@"; pwd; exit 0; fi\n'
                      f'exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return venv


def pip_calls(tmp_path) -> list[str]:
    log = tmp_path / "pip.log"
    return log.read_text().splitlines() if log.exists() else []


def test_a_second_run_installs_nothing_until_something_changes(checkout, environment, tmp_path):
    words = ("make", "-C", checkout / "tools", "venv", f"VENV={environment}", "TORCH_VERSION=1.2.3")
    first = run(*words)
    assert first.returncode == 0, first.stderr
    assert [call.split()[-1] for call in pip_calls(tmp_path)] == ["torch==1.2.3",
                                                                  ".[test,mini,ark,pack,pretrained,serve]"]
    assert "to download" in first.stdout

    again = run(*words)
    assert (again.returncode, len(pip_calls(tmp_path))) == (0, 2)
    with open(checkout / "setup.py", "a", encoding="utf-8") as file:
        file.write("# changed\n")
    run(*words)
    assert len(pip_calls(tmp_path)) == 4
    run(*words, "EXTRAS=test")
    assert pip_calls(tmp_path)[-1].endswith(".[test]")


def test_the_versions_that_were_tested_are_installed(checkout, environment, tmp_path):
    words = ("make", "-C", checkout / "tools", "venv", f"VENV={environment}")
    assert run(*words).returncode == 0
    assert f"--constraint {checkout}/tools/constraints.txt" in pip_calls(tmp_path)[-1]
    before = len(pip_calls(tmp_path))
    with open(checkout / "tools" / "constraints.txt", "a", encoding="utf-8") as file:
        file.write("another==1.0\n")
    assert run(*words).returncode == 0 and len(pip_calls(tmp_path)) > before


def test_without_constraints_the_newest_versions_are_installed_and_torch_stays(checkout, environment, tmp_path):
    import torch

    done = run("make", "-C", checkout / "tools", "venv", f"VENV={environment}", "CONSTRAINTS=")
    assert done.returncode == 0, done.stderr
    assert "--upgrade --upgrade-strategy eager" in pip_calls(tmp_path)[-1]
    constraints = re.search(r"--constraint (.+) --editable", pip_calls(tmp_path)[-1])[1]
    assert Path(constraints).read_text() == f"torch=={torch.__version__}\n"


def test_constraints_that_are_not_there_are_named(checkout, environment, tmp_path):
    done = run("make", "-C", checkout / "tools", "venv", f"VENV={environment}", "CONSTRAINTS=nowhere.txt")
    assert done.returncode != 0 and "CONSTRAINTS=nowhere.txt: there is no such file" in done.stderr
    assert not pip_calls(tmp_path)


def test_the_newest_releases_are_tested_and_what_is_newer_is_listed(checkout, environment, tmp_path):
    (checkout / "tools" / "constraints.txt").write_text("pytest==0.1\nno-such-package==1.0\n", encoding="utf-8")
    done = run("make", "--no-print-directory", "-C", checkout / "tools", "test-newest", f"NEWEST={environment}")
    assert done.returncode == 0, done.stderr
    assert "--upgrade" in pip_calls(tmp_path)[-1] and PYTEST.partition(" ")[2] in done.stdout
    assert re.search(rf"^pytest +0.1 +{re.escape(pytest.__version__)}$", done.stdout, re.MULTILINE)
    assert "no-such-package" not in done.stdout


def test_constraints_cover_what_setup_asks_for():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    bounds = [Requirement(bound) for bound in re.findall(r'^ +"([\w-]+>=[\d.]+)",', setup, re.MULTILINE)]
    assert len(bounds) > 15
    for python in ("3.10", "3.11", "3.12", "3.13"):
        tested = {line.name: line.specifier for line in map(Requirement, constraint_lines())
                  if line.marker is None or line.marker.evaluate({"python_version": python})}
        for bound in bounds:
            if bound.name != "torch":
                assert bound.specifier.contains(str(tested[bound.name])[2:]), f"{bound} on Python {python}"


def constraint_lines() -> list[str]:
    text = (ROOT / "tools" / "constraints.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_a_package_that_differs_between_pythons_has_a_line_for_each():
    module = runpy.run_path(str(ROOT / "tools" / "constraints.py"))
    installed = {(3, 10): {"Numpy": "2.2", "tqdm": "4", "torch": "2"}, (3, 11): {"numpy": "2.4", "tqdm": "4"},
                 (3, 13): {"numpy": "2.5", "tqdm": "4", "nvidia-x": "1"}}
    assert module["lines"](installed) == [
        'numpy==2.2 ; python_version < "3.11"',
        'numpy==2.4 ; python_version >= "3.11" and python_version < "3.13"',
        'numpy==2.5 ; python_version >= "3.13"', "tqdm==4"]


def test_an_installation_that_failed_is_done_again(checkout, environment, tmp_path):
    words = ("make", "-C", checkout / "tools", "venv", f"VENV={environment}")
    failed = run(*words, PIP_STATUS="1")
    assert failed.returncode != 0
    assert "error: pip could not install" in failed.stderr and "run the same command again" in failed.stderr
    before = len(pip_calls(tmp_path))
    assert run(*words).returncode == 0
    assert len(pip_calls(tmp_path)) > before


def test_a_torch_of_the_wanted_version_stays(checkout, environment, tmp_path):
    import torch

    version = torch.__version__.partition("+")[0]
    done = run("make", "-C", checkout / "tools", "venv", f"VENV={environment}", f"TORCH_VERSION={version}")
    assert done.returncode == 0
    assert not any("torch==" in call for call in pip_calls(tmp_path))


def test_make_test_installs_and_runs_the_command_of_the_readme(checkout, environment, tmp_path):
    done = run("make", "--no-print-directory", "-C", checkout / "tools", "test", f"VENV={environment}")
    assert done.returncode == 0, done.stderr
    assert pip_calls(tmp_path)
    assert done.stdout.splitlines()[-2:] == [PYTEST.partition(" ")[2], str(checkout)]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in (PYTEST, "make -C tools demo", "make -C tools test"):
        assert command in readme


def test_continuous_integration_runs_make_test():
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if "make" in line and line[0] != "#"]
    assert commands[-1] == "exec make -C tools test" and len(commands) == 2
    assert commands[0].startswith("make -C tools models || ")  # where they cannot be had, their tests are skipped
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def fake_python(tmp_path, version: str) -> Path:
    python = tmp_path / "old python"
    python.write_text(f"#!/bin/sh\necho {version}\n")
    python.chmod(0o755)
    return python


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.9"])
def test_an_old_python_is_refused(checkout, tmp_path, version):
    python = fake_python(tmp_path, version)
    done = run("make", "-C", checkout / "tools", "venv", f"VENV={tmp_path}/new", f"PYTHON={python}")
    assert done.returncode != 0
    assert f"is Python {version}; blspkd needs 3.10 or newer" in done.stderr
    assert not (tmp_path / "new").exists()


def test_a_python_that_is_not_there_is_named(checkout, tmp_path):
    done = run("make", "-C", checkout / "tools", "venv", f"VENV={tmp_path}/new", "PYTHON=/nowhere/python3")
    assert done.returncode != 0 and "'/nowhere/python3' is not a Python that runs" in done.stderr


def test_another_python_than_the_environments_is_refused(checkout, environment, tmp_path):
    python = fake_python(tmp_path, "3.99")
    done = run("make", "-C", checkout / "tools", "venv", f"VENV={environment}", f"PYTHON={python}")
    assert done.returncode != 0 and "make -C tools clean" in done.stderr
    assert not pip_calls(tmp_path)


def test_a_folder_of_other_things_is_no_environment(checkout, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    done = run("make", "-C", checkout / "tools", "venv", f"VENV={tmp_path}/photos", f"PYTHON={sys.executable}")
    assert done.returncode != 0 and "other things in it" in done.stderr


def test_clean_removes_only_what_the_makefile_made(checkout, environment):
    words = ("make", "-C", checkout / "tools", "clean", f"VENV={environment}")
    assert "it stays" in run(*words).stdout and environment.is_dir()
    (environment / ".made-by-blspkd").touch()
    assert run(*words).returncode == 0 and not environment.exists()


def test_the_check_prints_a_table_and_passes_here():
    done = run(sys.executable, ROOT / "tools" / "check_install.py", PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stdout
    status = {line[:18].strip(): line[18:27].strip() for line in done.stdout.splitlines()}
    required = ["python", "torch", "transformers", "peft", "audio: wav", "audio: flac", "audio: sph"]
    assert [status[what] for what in required] == ["ok"] * len(required)
    assert {"GPU", "audio: mp3", "audio: ogg", "Kaldi ark", "espeak-ng", "fastapi", "uvicorn", "prometheus-client",
            "deepspeed"} <= status.keys()


@pytest.mark.parametrize(("modules", "rows", "returncode"), [
    (["peft"], ["peft"], 1), (["fastapi", "omniio", "kaldiio"], ["fastapi", "Kaldi ark"], 0)])
def test_the_check_fails_for_required_parts_only(tmp_path, modules, rows, returncode):
    for module in modules:
        (tmp_path / f"{module}.py").write_text("raise ImportError('broken on purpose')\n")
    done = run(sys.executable, ROOT / "tools" / "check_install.py", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == returncode
    for row in rows:
        line = next(line for line in done.stdout.splitlines() if line.startswith(row))
        assert re.search(r"(MISSING|-) +(broken on purpose|.*not installed).*; .*pip install", line)


def test_talking_before_the_demo_says_what_to_do(checkout, environment):
    done = run("make", "-C", checkout / "tools", "talk", f"VENV={environment}")
    assert done.returncode != 0 and "there is no model yet; make -C tools demo trains it" in done.stderr


def test_talking_serves_the_demos_model_and_opens_the_page(checkout, environment):
    model = checkout / "egs" / "mini" / "blspkd1" / "exp" / "train" / "model"
    model.mkdir(parents=True)
    (model / "config.yaml").touch()
    (environment / "bin" / "blspkd").write_text('#!/bin/sh\necho "$PWD: $@"\n')
    (environment / "bin" / "blspkd").chmod(0o755)
    done = run("make", "--no-print-directory", "-C", checkout / "tools", "talk", f"VENV={environment}",
               "TALK_ARGS=--port 8001")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{model.parents[2]}: serve exp/train/model --open --port 8001"


def test_git_ignores_an_environment_that_is_a_link(tmp_path):
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "venv").symlink_to(tmp_path)
    seen = subprocess.run(["git", "status", "--porcelain", "--untracked-files=all"], cwd=tmp_path, check=True,
                          capture_output=True, text=True).stdout
    assert seen == "?? .gitignore\n"
