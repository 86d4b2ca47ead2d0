"""The recipe template: stages, what is skipped, what is made again, and what is complained about.

The commands of the package are replaced by a stand-in for `python` that notes how it was called and makes the files
that the real command makes; PLANNER, the warm Python, plans comparisons.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from ast import literal_eval
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).parents[2] / "egs" / "TEMPLATE" / "blspkd1"
PYTHON = f"""#!{sys.executable} -S
import os, sys, time
from pathlib import Path

if sys.argv[1] != "-m" or not sys.argv[2].startswith("blspkd.bin."):
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
if sys.argv[2:4] == ["blspkd.bin.compare", "plan"]:
    os.execv("PLANNER", ["PLANNER", *sys.argv[1:]])
name, words = sys.argv[2].removeprefix("blspkd.bin."), sys.argv[3:]
options = dict(zip(words, words[1:]))
with open("calls", "a") as file:
    print(name, *words, file=file)
if Path("fail." + name).exists():
    sys.exit("error: " + name + " cannot")

def make(*path):
    Path(*path).parent.mkdir(parents=True, exist_ok=True)
    Path(*path).write_text("made by " + " ".join(words))

if name == "data_dir" and words[0] == "durations":
    make(words[1], "utt2dur")
if name == "merge_continuations":
    make(options["--data_dir"], "continuation")
    make(options["--data_dir"], "continuation.info.json")
if name == "train":
    make(options["--output_dir"], "checkpoint-1/model")
    while Path("slow.train").exists():
        time.sleep(0.1)
    make(options["--output_dir"], "model/config.json")
    Path(options["--output_dir"], "config.yaml").write_text("system: trained\\nmodel:\\n  llm: x\\n")
if name == "merge":
    make(options["--output"], "config.json")
if name == "decode":
    read = "." + options["--systems"].strip("[]") if "--llm" in options else ""
    make(options["--exp_dir"], "decode_repeat_" + Path(options["--data_dir"]).name + read, "hyp.jsonl")
if name == "align":
    make(options["--exp_dir"], "align_" + Path(options["--data_dir"]).name, "summary.json")
if name == "score":
    make(options["--exp_dir"], "results.json")
if name == "results":
    print("THE TABLES")
    if "--output" in options:
        make(options["--output"])
"""
DATA = """#!/usr/bin/env bash
set -euo pipefail
vocabulary=10  # words
nj=1           # jobs
. utils/parse_options.sh
echo "data.sh runs"
for name in train valid test; do
    mkdir -p data/$name
    echo "u1 u1.wav" > data/$name/wav.scp
    echo "u1 s1" > data/$name/utt2spk
    echo "u1 word $vocabulary" > data/$name/text
done
"""


class Recipe:
    def __init__(self, folder, original=None, planner=None):
        self.folder = folder
        if original:
            shutil.copytree(original.folder, folder, symlinks=True)
        else:
            subprocess.run([TEMPLATE / "setup.sh", folder], check=True, capture_output=True)
            (folder / "local/data.sh").write_text(DATA)
            (folder / "python").write_text(PYTHON.replace("PLANNER", str(planner)))
            (folder / "python").chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def command(self, *words):
        return ["./run.sh", "--python", "./python", "--ngpu", "0", "--nj", "2", *words]

    def run(self, *words):
        return subprocess.run(self.command(*words), cwd=self.folder, env=self.environment, capture_output=True,
                              text=True, timeout=60)

    def succeed(self, *words):
        result = self.run(*words)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def fail(self, *words):
        result = self.run(*words)
        assert result.returncode == 1, result.stdout + result.stderr
        return result.stderr

    def calls(self):
        """Names of the commands that were called since the last look."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def names(self):
        return {line.split()[0] for line in self.calls()}


@pytest.fixture(scope="module")
def new(warm, tmp_path_factory):
    """A recipe whose local/data.sh is written. Nothing has run; tests leave it so."""
    return Recipe(tmp_path_factory.mktemp("new") / "my corpus" / "blspkd1", planner=warm / "bin/python")


@pytest.fixture(scope="module")
def after_stage_2(new, tmp_path_factory):
    """A recipe whose stages 1 and 2 have run, for tests to copy."""
    recipe = Recipe(tmp_path_factory.mktemp("stage 2") / "blspkd1", new)
    recipe.output = recipe.succeed("--stop_stage", "2")
    recipe.first_calls = recipe.calls()
    return recipe


@pytest.fixture
def recipe(after_stage_2, tmp_path):
    """A recipe of one's own whose stages 1 and 2 have run."""
    return Recipe(tmp_path / "blspkd1", after_stage_2)


@pytest.fixture(scope="module")
def finished(after_stage_2, tmp_path_factory):
    """A recipe that has run; tests leave it as it was."""
    recipe = Recipe(tmp_path_factory.mktemp("finished") / "blspkd1", after_stage_2)
    recipe.output = after_stage_2.output + recipe.succeed()
    recipe.first_calls = after_stage_2.first_calls + recipe.calls()
    return recipe


def test_recipe_made_by_setup_runs_after_local_data_is_written(finished):
    assert "THE TABLES" in finished.output
    assert "data.sh runs" in finished.output
    folder = finished.folder
    for path in ("data/train/utt2dur", "data/valid/continuation", "exp/train/model/config.json", "exp/train/train.log",
                 "exp/train/decode_repeat_test/hyp.jsonl", "exp/train/results.json", "exp/train/RESULTS.md"):
        assert (folder / path).is_file(), path
    lines = [line.split("\t") for line in (folder / "exp/train/stage_times.tsv").read_text().splitlines()]
    stages = [["1", "data"], ["2", "continuations"], ["3", "train"], ["4", "evaluate"]]
    assert [line[:2] for line in lines[1:]] == stages
    assert all(float(line[2]) >= 0 and len(line) == 5 for line in lines[1:])


def test_commands_get_what_the_contract_says(finished):
    calls = finished.first_calls
    llm = "--llm Qwen/Qwen2.5-0.5B-Instruct"
    assert ("generate_continuations --config conf/continuation.yaml " + llm
            + " --data_dir data/train --job 2 --num_jobs 2") in calls
    assert ("train --config conf/train.yaml " + llm + " --speech_encoder openai/whisper-small --train_dir data/train "
            "--valid_dir data/valid --output_dir exp/train") in calls
    assert ("decode --job 1 --num_jobs 1 --config conf/decode.yaml --model_dir exp/train/model --data_dir data/test "
            "--exp_dir exp/train") in calls
    assert "score --config conf/decode.yaml --exp_dir exp/train --test_sets test" in calls


def test_second_run_does_nothing_and_shows_the_tables(finished):
    files = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")
             if path.is_file() and path.suffix != ".lock" and path.name != "calls"}
    output = finished.succeed()
    assert finished.names() == {"results"}
    assert "train: done on" in output and "skipped" in output and "THE TABLES" in output
    assert files == {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize("words, complaint", [
    (["--train_args", "--learning_rate 1e-3"], 'train_args: "" -> "--learning_rate 1e-3"'),
    (["--llm", "other/llm", "--stage", "train"], 'llm: "Qwen/Qwen2.5-0.5B-Instruct" -> "other/llm"'),
    (["--stage", "2", "--continuation_args", "--seed 1"], "remove data/train/continuation"),
    (["--inference_args", "--seed 1"], "remove exp/train/decode_*_test"),
    (["--local_data_opts", "--vocabulary 3"], "remove data; to keep it, give other --datadir"),
])
def test_other_options_for_things_that_are_there_are_an_error(finished, words, complaint):
    error = finished.fail(*words)
    assert complaint in error
    assert "or go on with what is there: --skip_stages" in error


def test_changed_configuration_is_named_line_by_line(finished):
    config = finished.folder / "conf/train.yaml"
    before = config.read_text()
    config.write_text(before.replace("learning_rate: 1.0e-4", "learning_rate: 2.0e-4"))
    error = finished.fail()
    assert "stage 3 (train): exp/train/model was made on" in error
    assert "was: learning_rate: 1.0e-4" in error and "now: learning_rate: 2.0e-4" in error
    assert "give another --tag" in error
    config.write_text("# another comment\n" + before)
    assert finished.succeed()
    config.write_text(before)
    finished.calls()


def test_tag_comes_from_the_option_or_the_configuration_and_from_nothing_else(recipe):
    recipe.succeed("--stage", "3", "--stop_stage", "3", "--train_args", "--seed 1", "--tag", "seed1")
    assert (recipe.folder / "exp/seed1/model").is_dir()
    assert not (recipe.folder / "exp/train").exists()


@pytest.mark.parametrize("reads, system", [("transcript", "text"), ("openai/whisper-small", "cascade")])
def test_what_reads_is_decoded_as_such(recipe, reads, system):
    recipe.succeed("--stage", "4", "--stop_stage", "4", "--tag", "reader", "--reads", reads)
    calls = {line.split()[0]: line for line in recipe.calls()}
    style = " --transcript_style data/train" * (system == "cascade")
    assert f"--systems [{system}]{style} --transcripts exp/reader/asr_{{set}}" in calls["decode"]
    assert ("transcribe" in calls) == (system == "cascade")


@pytest.mark.parametrize("words, shown", [
    (["--stage", "data", "--stop_stage", "1"], ["stage 1: data"]),
    (["--stage", "1", "--stop_stage", "continuations"], ["stage 1: data", "stage 2: continuations"]),
    (["--skip_stages", "1 train", "--stop_stage", "3"], ["stage 2: continuations"]),
    (["--skip-stages", "data 2", "--stage=1", "--stop-stage=2"], []),
])
def test_stages_are_chosen_by_number_or_name(after_stage_2, words, shown):
    lines = after_stage_2.succeed(*words).splitlines()
    assert [line.split(") ", 1)[1] for line in lines if ") stage " in line] == shown


def test_log_lines_say_when_and_where(after_stage_2):
    line = after_stage_2.succeed("--stop_stage", "1").splitlines()[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d \(blspkd.sh:\d+:main\) stage 1: data", line)


@pytest.mark.parametrize("words, complaint", [
    (["--stage", "tarin"], "there is no such stage; the stages are 1 data, 2 continuations, 3 train, 4 evaluate"),
    (["--stage", "3", "--stop_stage", "2"], "nothing to do"),
    (["--stage", "continuations"], "data/train/utt2dur: not there; run stage 1 (data)"),
    (["--stage", "evaluate"], "exp/train/model: not there; run stage 3 (train)"),
    (["stray"], "unexpected 'stray'"),
    (["--train_args", "--x 'y"], "cannot split into words"),
    (["--stage", "9"], "--stage '9': there is no such stage; the stages are 1 data, 2 continuations, 3 train, "
                       "4 evaluate, 5 compare"),
    (["--stage", "0"], "--stage '0': there is no such stage"),
    (["--stop_stage", "6"], "--stop_stage '6': there is no such stage"),
    (["--skip_stages", "1 7"], "--skip_stages '7': there is no such stage"),
    (["--nj", "0"], "--nj 0: give a whole number from 1 up"),
    (["--num_nodes", "0"], "--num_nodes 0: give a whole number from 1 up"),
    (["--num_procs", "0"], "--num_procs 0: give a whole number from 1 up"),
    (["--continuation_gpus", "0"], "--continuation_gpus 0: give a whole number from 1 up"),
    (["--num_threads", "0"], "--num_threads 0: give a whole number from 1 up"),
    (["--compare_jobs", "0"], "--compare_jobs 0: give a whole number from 1 up"),
    (["--ngpu", "-1"], "--ngpu '-1': give a whole number"),
    (["--tag", "my_BLSPKD_JOB"], "BLSPKD_JOB and BLSPKD_NODE stand for numbers of jobs"),
    (["--stage", "5", "--stop_stage", "5"], "data/train/continuation: not there; run stage 2"),
])
def test_impossible_requests_are_told(new, words, complaint):
    assert complaint in new.fail(*words)
    assert not (new.folder / "calls").exists()


@pytest.mark.parametrize("tag", ["NODEexp", "JOB", "NODE"])
def test_names_of_kaldis_job_numbers_are_names(recipe, tag):
    recipe.succeed("--stage", "3", "--tag", tag)
    assert (recipe.folder / "exp" / tag / "model").is_dir() and (recipe.folder / "exp" / tag / "train.log").is_file()
    assert {path.name for path in (recipe.folder / "exp").iterdir()} == {tag}


def test_folders_and_words_may_be_called_job(new, tmp_path):
    recipe = Recipe(tmp_path / "blspkd1", new)
    script = recipe.folder / "local/data.sh"
    script.write_text(script.read_text().replace("data/$name", "NODE/JOB/$name"))
    recipe.succeed("--stop_stage", "3", "--datadir", "NODE/JOB", "--expdir", "my JOB", "--continuation_args",
                   "--instruction 'Find a JOB:'", "--train_args", "--cache_dir JOB")
    calls = recipe.calls()
    assert [line for line in calls if line.startswith("generate") and "--data_dir NODE/JOB/train --job 2 --num_jobs 2 "
            "--instruction Find a JOB:" in line]
    assert [line for line in calls if line.startswith("train") and "--output_dir my JOB/train --cache_dir JOB" in line]
    assert (recipe.folder / "NODE/JOB/train/log/generate_continuations.2.log").is_file()


def test_what_trains_base_models_is_code_of_the_corpus_too(new, tmp_path):
    """A recipe whose base models come from its folder `base`, or a link to another recipe's."""
    recipe = Recipe(tmp_path / "blspkd1", new)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/train.py").write_text("steps = 1\n")
    (recipe.folder / "base").symlink_to(tmp_path / "elsewhere")
    recipe.succeed("--stop_stage", "1")
    assert "nothing changed" in recipe.succeed("--stop_stage", "1")
    (tmp_path / "elsewhere/train.py").write_text("steps = 2\n")
    assert "base: changed" in recipe.succeed("--stop_stage", "1")


KALDI = """#!/usr/bin/env bash
# As Kaldi's run.pl, queue.pl and slurm.pl do it: the letters of the name are replaced wherever they stand.
set -euo pipefail
while [[ $1 == --* ]]; do shift 2; done
name=${1%%=*}; numbers=${1#*=}
for number in $(seq "${numbers%:*}" "${numbers#*:}"); do
    words=("${@:2}")
    words=("${words[@]//${name}/${number}}")
    mkdir -p "$(dirname "${words[0]}")"
    "${words[@]:1}" > "${words[0]}" 2>&1
done
"""


@pytest.mark.parametrize("words, gpus", [(["--ngpu", "4"], 1), (["--ngpu", "4", "--continuation_gpus", "2"], 2),
                                         (["--continuation_gpus", "2"], 0)])
def test_a_job_of_stage_2_has_as_many_gpus_as_are_asked_for(new, tmp_path, words, gpus):
    recipe = Recipe(tmp_path / "blspkd1", new)
    (recipe.folder / "noting.sh").write_text(KALDI.replace("while [[", 'echo "$*" >> noted\nwhile [['))
    (recipe.folder / "noting.sh").chmod(0o755)
    with open(recipe.folder / "cmd.sh", "a") as file:
        file.write("generate_cmd=./noting.sh\n")
    recipe.succeed("--stop_stage", "2", "--continuation_args",
                   "--engine vllm --engine_options '{python: my vllm/bin/python, tensor_parallel_size: 2}'", *words)
    assert (recipe.folder / "noted").read_text().startswith(f"--gpu {gpus} BLSPKD_JOB=1:2 ")
    assert any("--engine vllm --engine_options {python: my vllm/bin/python, tensor_parallel_size: 2}" in line
               for line in recipe.calls())


def test_kaldis_scripts_can_run_the_jobs_of_any_name(new, tmp_path):
    recipe = Recipe(tmp_path / "blspkd1", new)
    (recipe.folder / "kaldi.sh").write_text(KALDI)
    (recipe.folder / "kaldi.sh").chmod(0o755)
    commands = recipe.folder / "cmd.sh"
    commands.write_text(commands.read_text().replace("cluster=utils/run.py", "cluster=./kaldi.sh"))
    recipe.succeed("--stop_stage", "4", "--tag", "my_JOB_on_NODE1")
    assert (recipe.folder / "exp/my_JOB_on_NODE1/train.log").is_file()
    assert (recipe.folder / "data/train/log/generate_continuations.2.log").is_file()
    assert any("--job 2 --num_jobs 2" in line for line in recipe.calls())


@pytest.mark.parametrize("text, words", [
    ("--x 1 ; touch ran", ["--x", "1", ";", "touch", "ran"]),
    ("--x $(touch ran) `touch ran` | cat > ran && touch ran", None),
    ("--x 'a\nb' \"it's\" '' * ~", ["--x", "a\nb", "it's", "", "*", "~"]),
    ("", []),
    ("  \t ", []),
])
def test_what_options_hold_is_no_shell_code(recipe, text, words):
    with open(recipe.folder / "python", "a") as file:  # the stand-in writes its words apart
        file.write("if name == 'train':\n    make('words')\n    Path('words').write_text(repr(words))\n")
    recipe.succeed("--stage", "3", "--stop_stage", "3", "--train_args", text)
    written = literal_eval((recipe.folder / "words").read_text())
    start = written.index("exp/train") + 1
    assert written[start:] == (text.split() if words is None else words)
    assert not (recipe.folder / "ran").exists()


def test_the_share_of_dropped_continuations_can_be_chosen(new, tmp_path):
    recipe = Recipe(tmp_path / "blspkd1", new)
    recipe.succeed("--stop_stage", "2", "--max_bad_ratio", "0.9")
    assert "merge_continuations --data_dir data/train --max_bad_ratio 0.9" in recipe.calls()


def test_jobs_without_work_are_told(new, tmp_path):
    recipe = Recipe(tmp_path / "blspkd1", new)
    with open(recipe.folder / "python", "a") as file:
        file.write("if name == 'generate_continuations' and options['--job'] == '2':\n"
                   "    print('job 2: nothing to do')\n")
    assert recipe.succeed("--stop_stage", "2").count("job 2: nothing to do\n") == 2  # train and valid


def test_a_full_disk_is_one_message(new, tmp_path):
    recipe = Recipe(tmp_path / "blspkd1", new)
    with open(recipe.folder / "conf/continuation.yaml", "a") as file:
        file.write("".join(f"key{number}: {number}\n" for number in range(500)))  # the marker records it
    recipe.succeed("--stop_stage", "1")
    result = subprocess.run(["bash", "-c", 'ulimit -f 2; exec "$@"', "bash", *recipe.command("--stage", "2")],
                            cwd=recipe.folder, env=recipe.environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    told = r"^error: data/.done/continuations_train.json: File too large; raise"
    assert re.search(told, result.stderr)
    assert not list(recipe.folder.rglob("*.tmp-*"))


def test_markers_that_a_kill_left_half_written_vanish(recipe):
    half = recipe.folder / "data/.done/continuations_train.json.tmp-1"
    half.write_text("{")
    recipe.succeed("--stage", "2", "--stop_stage", "2")
    assert not half.exists()


def test_removed_output_is_made_again(recipe):
    (recipe.folder / "data/valid/continuation").unlink()
    output = recipe.succeed("--stop_stage", "2", "--continuation_args", "")
    assert "continuations_valid: runs again, because\n  data/valid/continuation is not there" in output
    assert [line.split()[0] for line in recipe.calls()] == ["generate_continuations"] * 2 + ["merge_continuations"]


def test_added_test_set_is_all_that_is_decoded(finished, tmp_path):
    recipe = Recipe(tmp_path / "blspkd1", finished)
    for file in (recipe.folder / "data/test").iterdir():
        other = recipe.folder / "data/other" / file.name
        other.parent.mkdir(exist_ok=True)
        other.write_text(file.read_text())
    recipe.succeed("--stage", "4", "--test_sets", "test other")
    decoded = [line for line in recipe.calls() if line.startswith("decode")]
    assert len(decoded) == 1 and "--data_dir data/other" in decoded[0]


def test_other_metrics_need_no_decoding(finished, tmp_path):
    recipe = Recipe(tmp_path / "blspkd1", finished)
    config = recipe.folder / "conf/decode.yaml"
    config.write_text(config.read_text().replace("metrics: [wer]", "metrics: [wer, cer]"))
    recipe.succeed("--stage", "4")
    assert [line.split()[0] for line in recipe.calls()] == ["score", "results"]


def test_changed_transcripts_stop_stage_2(recipe):
    (recipe.folder / "data/train/text").write_text("u1 something else\n")
    assert "data/train/text: its contents changed" in recipe.fail("--stage", "2")


def test_a_recording_that_changed_is_noticed_by_every_stage_that_hears_it(finished, tmp_path):
    recipe = Recipe(tmp_path / "blspkd1", finished)
    (recipe.folder / "u1.wav").write_bytes(b"another recording")
    told = "audio of data/{}/wav.scp: 1 of 1 recordings changed: u1 (u1.wav)"
    output = recipe.succeed("--stop_stage", "1")
    measured = [line for line in recipe.calls() if line.startswith("data_dir durations")]
    assert len(measured) == 3 and all(told.format(name) in output for name in ("train", "valid", "test"))
    error = recipe.fail("--stage", "3")
    assert "exp/train/model was made on" in error and told.format("train") in error
    assert told.format("test") in recipe.fail("--stage", "4")


def test_corpus_that_misses_a_set_is_told(recipe):
    shutil.rmtree(recipe.folder / "data")
    assert "data/test2/wav.scp is not there" in recipe.fail("--test_sets", "test test2")


def test_mistake_that_left_nothing_behind_can_be_corrected(recipe):
    (recipe.folder / "fail.train").touch()
    error = recipe.fail("--stage", "3", "--train_args", "--learning_rat 1")
    assert "error: train cannot" in error and "rerun: cd " in error
    (recipe.folder / "fail.train").unlink()
    recipe.succeed("--stage", "3", "--stop_stage", "3", "--train_args", "--learning_rate 1")


def test_stage_5_compares_the_templates_own_systems(recipe):
    recipe.succeed("--stage", "5", "--stop_stage", "5", "--compare_budget", "small")
    calls = recipe.calls()
    trained = [re.search(r"--config (\S+) .*--output_dir (\S+) .*--max_steps (\d+)", line).groups() for line in calls
               if line.startswith("train")]
    assert sorted(trained) == [(f"conf/compare/{name}.yaml", f"exp/compare_small/{name}-seed0", "200")
                               for name in ("blsp", "blspkd+plora", "blspkd")]
    read = [line for line in calls if line.startswith(("decode", "transcribe")) and "exp/compare_small/cascade" in line]
    assert [line.split()[0] for line in read] == ["transcribe", "decode"]
    assert "--recogniser openai/whisper-small" in read[0] and "--max_utterances 200" in read[1]


def test_stage_5_decodes_a_trained_model_otherwise_when_it_is_there(recipe):
    (recipe.folder / "conf/compare.yaml").write_text("systems: {beams: 1, blspkd: 1, blsp: 1}\n"
                                                     "budgets: {tiny: {max_steps: 3, systems: [beams, blspkd]}}\n")
    (recipe.folder / "conf/compare/beams.yaml").write_text("system: beams\nof: blspkd\ninference: {num_beams: 4}\n")
    words = "--stage", "5", "--stop_stage", "5", "--compare_budget", "tiny", "--align_sets", "valid"
    (recipe.folder / "fail.train").touch()
    assert "its model is that of blspkd-seed0, which is not trained" in recipe.fail(*words)
    (recipe.folder / "fail.train").unlink()
    recipe.calls()
    recipe.succeed(*words)
    steps = [line for line in recipe.calls() if line.startswith(("train", "decode", "align"))]
    folder = re.compile(r"--(?:output|exp)_dir exp/compare_tiny/(\S+)")
    assert [(line.split()[0], folder.search(line)[1]) for line in steps] == [
        ("train", "blspkd-seed0"), ("decode", "blspkd-seed0"), ("align", "blspkd-seed0"), ("decode", "beams-seed0")]
    assert "--model_dir exp/compare_tiny/beams-seed0/model" in steps[-1]
    assert steps[-1].endswith("--num_beams=4 --systems [speech] --max_utterances 0")
    beams = recipe.folder / "exp/compare_tiny/beams-seed0"
    assert (beams / "config.yaml").read_text() == "system: 'beams'\nmodel:\n  llm: x\n"
    assert (beams / "model").resolve() == (recipe.folder / "exp/compare_tiny/blspkd-seed0/model").resolve()
    (beams / "model").unlink()
    (beams / "model").mkdir()  # as if it had been trained, before it became of: another
    (beams / "model/weights").write_text("own")
    (recipe.folder / "exp/compare_tiny/done").unlink(missing_ok=True)
    (recipe.folder / "conf/compare/beams.yaml").write_text("system: beams\nof: blspkd\ninference: {num_beams: 2}\n")
    assert "beams-seed0/model is a model of its own; remove" in recipe.fail(*words)
    assert (beams / "model/weights").read_text() == "own"


def test_stage_5_decodes_the_model_after_the_first_of_two_phases(recipe):
    (recipe.folder / "conf/compare.yaml").write_text(
        "systems: {aligned: 1, blspkd: 1}\nbudgets: {tiny: {max_steps: 3}}\n")
    (recipe.folder / "conf/compare/aligned.yaml").write_text("system: aligned\nof: blspkd\nphase: align\n")
    with (recipe.folder / "conf/compare/blspkd.yaml").open("a") as file:
        file.write("align: {loss: {terms: {embedding: {weight: 1}}}}\n")
    words = "--stage", "5", "--stop_stage", "5", "--compare_budget", "tiny"
    assert "its model is that of blspkd-seed0/align, which is not trained" in recipe.fail(*words)
    first, aligned = (recipe.folder / "exp/compare_tiny" / name for name in ("blspkd-seed0/align", "aligned-seed0"))
    (first / "model").mkdir(parents=True)
    (first / "config.yaml").write_text("system: blspkd\nalign: {}\n")
    recipe.calls()
    recipe.succeed(*words)
    assert [line.split()[0] for line in recipe.calls() if line.startswith(("train", "decode"))] == ["decode"]
    assert (aligned / "model").resolve() == (first / "model").resolve()
    assert (aligned / "config.yaml").read_text() == "system: 'aligned'\nalign: {}\n"


def test_stage_5_merges_trained_models_and_measures_what_comes_out(recipe):
    (recipe.folder / "conf/compare.yaml").write_text("systems: {half: 1, blspkd+plora: 1}\nreference: blspkd+plora\n"
                                                     "chance: ''\nbudgets: {tiny: {max_steps: 3}}\n")
    (recipe.folder / "conf/compare/half.yaml").write_text("system: half\nof: blspkd+plora\nmerge: {none: 0.75}\n")
    words = "--stage", "5", "--stop_stage", "5", "--compare_budget", "tiny", "--align_sets", "valid"
    exp = recipe.folder / "exp/compare_tiny"
    exp.joinpath("half-seed0").mkdir(parents=True)
    (exp / "half-seed0/model").symlink_to("../blspkd+plora-seed0/model")  # it was decoded otherwise, not merged, before
    recipe.calls()
    recipe.succeed(*words)
    calls = [line for line in recipe.calls() if line.startswith(("merge ", "train", "decode", "align"))]
    assert calls[3] == ("merge --models exp/compare_tiny/blspkd+plora-seed0/model none --weights 0.25 0.75 "
                        "--output exp/compare_tiny/half-seed0/model")
    assert [line.split()[0] for line in calls] == ["train", "decode", "align", "merge", "decode", "align"]
    assert "--model_dir exp/compare_tiny/half-seed0/model" in calls[4] and "--systems [speech,text]" in calls[4]
    assert (exp / "half-seed0/model").is_dir() and not (exp / "half-seed0/model").is_symlink()
    assert "train" in (exp / "blspkd+plora-seed0/model/config.json").read_text()  # what the link led to is untouched
    (exp / "half-seed0/checkpoint-3").mkdir()  # as if it had been trained
    (exp / "half-seed0/results.json").unlink()
    assert "half-seed0/model is a model of its own; remove" in recipe.fail(*words)


def test_a_change_of_what_a_training_starts_from_or_selects_by_is_noticed(recipe):
    for path in ("exp/first/model/adapter.safetensors", "data/train/utt2quality"):
        (recipe.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (recipe.folder / path).write_text("u1 1\n")
    words = "--stage", "3", "--stop_stage", "3", "--train_args", "--init_from exp/first/model"
    recipe.succeed(*words)
    assert "nothing changed" in recipe.succeed(*words)
    for path, told in (("exp/first/model/adapter.safetensors", "init_from exp/first/model: its contents changed"),
                       ("data/train/utt2quality", "data/train/utt2quality: its contents changed")):
        (recipe.folder / path).write_text("u1 2\n")
        assert told in recipe.fail(*words)
        (recipe.folder / path).write_text("u1 1\n")


def test_a_comparison_without_systems_says_where_to_copy_them_from(recipe):
    shutil.rmtree(recipe.folder / "conf/compare")
    (recipe.folder / "conf/compare.yaml").unlink()
    error = recipe.fail("--stage", "5", "--stop_stage", "5")
    source = re.search(r"copy compare.yaml and compare from (.*) and adapt", error)[1]
    assert Path(source, "compare.yaml").is_file() and Path(source, "compare").is_dir()


def test_killed_run_goes_on_but_not_with_other_options(recipe):
    (recipe.folder / "slow.train").touch()
    process = subprocess.Popen(recipe.command("--stage", "3", "--stop_stage", "3"), cwd=recipe.folder,
                               env=recipe.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not (recipe.folder / "exp/train/checkpoint-1/model").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    error = recipe.fail("--stage", "3", "--train_args", "--seed 1")
    assert "exp/train/checkpoint-1 was begun on" in error and 'train_args: "" -> "--seed 1"' in error
    (recipe.folder / "slow.train").unlink()
    recipe.succeed("--stage", "3", "--stop_stage", "3")
    assert [line.split()[0] for line in recipe.calls()].count("train") == 2
