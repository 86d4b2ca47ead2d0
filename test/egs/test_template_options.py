"""utils/parse_options.sh: options are declared once, and mistakes in them are told."""

import re
import subprocess
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).parents[2] / "egs" / "TEMPLATE" / "blspkd1"
SCRIPT = f"""#!/usr/bin/env bash
# What this script does.

set -euo pipefail
train_set=train    # the set # with a mark
nj=4               # jobs
allow_pipes=false  # run them
tag=               # name
internal=1
. "{TEMPLATE}/utils/parse_options.sh"
late=1             # not an option
at_least 2 nj
printf '%s|' "$train_set" "$nj" "$allow_pipes" "$tag" "$#" "$@"
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "script.sh").write_text(SCRIPT)

    def run(*words):
        return subprocess.run(["bash", str(tmp_path / "script.sh"), *words], capture_output=True, text=True)

    return run


@pytest.mark.parametrize("words, values", [
    ([], "train|4|false||0|"),
    (["--train_set", "a b"], "a b|4|false||0|"),
    (["--train-set", "x"], "x|4|false||0|"),
    (["--train_set=x=y"], "x=y|4|false||0|"),
    (["--nj", "8", "--nj", "2"], "train|2|false||0|"),
    (["--nj", "08"], "train|8|false||0|"),
    (["--allow_pipes", "true"], "train|4|true||0|"),
    (["--tag", ""], "train|4|false||0|"),
    (["--tag", "--learning_rate 1e-3"], "train|4|false|--learning_rate 1e-3|0|"),
    (["--tag=--nj"], "train|4|false|--nj|0|"),
    (["--nj", "2", "one", "--nj", "3"], "train|2|false||3|one|--nj|3|"),
])
def test_options_set_variables(script, words, values):
    result = script(*words)
    assert (result.returncode, result.stdout) == (0, values), result.stderr


@pytest.mark.parametrize("words, complaint", [
    (["--njj", "2"], "unknown option --njj; did you mean --nj?"),
    (["--allow-pipe", "true"], "did you mean --allow_pipes?"),
    (["--something_else", "2"], "unknown option --something_else\nknown options: --train_set --nj --allow_pipes --tag"),
    (["--internal", "2"], "unknown option --internal"),
    (["--late", "2"], "unknown option --late"),
    (["-nj", "2"], "options start with --"),
    (["--nj"], "--nj needs a value"),
    (["--tag", "--nj", "2"], "--tag needs a value; found the option --nj"),
    (["--nj", "two"], "--nj 'two': give a whole number"),
    (["--nj", "-1"], "--nj '-1': give a whole number"),
    (["--nj", ""], "--nj '': give a whole number"),
    (["--nj", "99999999999999999999"], "--nj '99999999999999999999': give a whole number"),
    (["--nj", "1"], "--nj 1: give a whole number from 2 up"),
    (["--allow_pipes", "yes"], "--allow_pipes 'yes': give true or false"),
])
def test_mistakes_end_with_a_remedy(script, words, complaint):
    result = script(*words)
    assert result.returncode == 1
    assert complaint in result.stderr
    assert result.stdout == ""


def test_help_shows_description_and_present_values(script):
    result = script("--nj", "7", "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("What this script does.\n")
    assert re.search(r"--nj +jobs \[7\]", result.stdout)
    assert "internal" not in result.stdout and "late" not in result.stdout


def test_help_of_the_recipe_lists_every_declared_option():
    declared = re.findall(r"^(\w+)=(?:\"[^\"]*\"|\S*) +# ", (TEMPLATE / "blspkd.sh").read_text(), flags=re.MULTILINE)
    shown = subprocess.run(["./blspkd.sh", "--help"], cwd=TEMPLATE, capture_output=True, text=True).stdout
    assert re.findall(r"^  --(\w+)", shown, flags=re.MULTILINE) == declared
    expected = """stage stop_stage skip_stages nj ngpu num_nodes train_set valid_set test_sets continuation_config
        train_config inference_config train_args inference_args continuation_args local_data_opts expdir datadir dumpdir
        tag llm speech_encoder python allow_pipes"""
    assert set(expected.split()) <= set(declared)
