"""utils/in_pieces.sh: verbs of stage 1 by several jobs give what one call gives, in memory that stays flat."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

TEMPLATE = Path(__file__).parents[2] / "egs" / "TEMPLATE" / "blspkd1"
COUNT = 30
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """A recipe with a data directory of recordings of several lengths, on which nothing has run."""
    folder = tmp_path_factory.mktemp("recipe") / "blspkd1"
    subprocess.run([TEMPLATE / "setup.sh", folder], check=True, capture_output=True)
    train = folder / "data/train"
    train.mkdir(parents=True)
    ids = [f"spk{number // 10}-{number:02d}" for number in range(COUNT)]
    for number, utt_id in enumerate(ids):
        soundfile.write(folder / f"{utt_id}.wav", np.sin(np.arange(1600 * (1 + number % 9)) / 5) * 0.1, 16000)
    (train / "wav.scp").write_text("".join(f"{utt_id} {folder}/{utt_id}.wav\n" for utt_id in ids))
    (train / "text").write_text("".join(f"{utt_id} it says {utt_id[-2:]}\n" for utt_id in ids))
    (train / "utt2spk").write_text("".join(f"{utt_id} {utt_id[:4]}\n" for utt_id in ids))
    (train / "spk2utt").write_text("".join(f"spk{speaker} {' '.join(ids[speaker * 10:speaker * 10 + 10])}\n"
                                           for speaker in range(3)))
    return folder


@pytest.fixture
def run(warm, recipe):
    """Run the script in the recipe's folder."""
    def call(*words) -> subprocess.CompletedProcess:
        return subprocess.run(["utils/in_pieces.sh", "--python", warm / "bin/python", *map(str, words)], cwd=recipe,
                              env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)

    return call


def outputs(run, recipe: Path, *options) -> dict[str, object]:
    """What the four verbs say and write, which is removed."""
    found = {}
    for words in (["validate", "data/train"], ["durations", "data/train"], ["stats", "data/train"],
                  ["filter", "data/train", "data/kept", "--min_duration", "0.25", "--max_tokens_per_second", "30"]):
        done = run(*options, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        last = [line for line in done.stdout.splitlines() if "(run.py)" not in line]
        found[words[0]] = last
    files = [*(recipe / "data/kept").iterdir(), *(recipe / "data/train" / name for name in ("utt2dur",
                                                                                             ".utt2dur_from"))]
    found |= {file.name: file.read_bytes() for file in files}
    subprocess.run(["rm", "-rf", *files, recipe / "data/kept", recipe / "data/train/log"], check=True)
    assert not (recipe / "data/train/.pieces").exists()
    return found


def test_seven_jobs_give_what_one_gives_and_what_no_pieces_give(run, recipe):
    small = outputs(run, recipe)
    assert small["text"].count(b"\n") < COUNT and json.loads(small["filter.json"])["kept"] < COUNT
    assert outputs(run, recipe, "--nj", 7, "--piece_size", 4) == small


def test_on_a_slurm_cluster_they_are_the_same(warm, run, recipe, slurm):
    small = outputs(run, recipe)
    commands = recipe / "cmd.sh"
    on_one_machine = commands.read_text()
    commands.write_text(on_one_machine.replace("cluster=utils/run.py", "cluster=utils/slurm.py"))
    environment = {**ENVIRONMENT, "SLURM_CONF": slurm["SLURM_CONF"], "PATH": f"{warm / 'bin'}:{slurm['PATH']}"}
    try:
        for verb in "validate", "durations":
            done = subprocess.run(["utils/in_pieces.sh", "--nj", "3", "--piece_size", "9", verb, "data/train"],
                                  cwd=recipe, env=environment, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0 and "(slurm.py) 3 jobs done" in done.stdout, done.stdout + done.stderr
        assert (recipe / "data/train/utt2dur").read_bytes() == small["utt2dur"]
        assert [path.name for path in sorted((recipe / "data/train/log/slurm").glob("*.sh"))] == [
            "durations.BLSPKD_JOB.sh", "validate.BLSPKD_JOB.sh"]
    finally:
        commands.write_text(on_one_machine)
        subprocess.run(["rm", "-rf", recipe / "data/train/log"], check=True)


def test_small_directories_need_no_jobs_and_large_ones_have_logs(run, recipe):
    assert run("validate", "data/train").stdout == "data/train: in order\n"
    assert not (recipe / "data/train/log").exists()
    assert run("--nj", 3, "--piece_size", 15, "validate", "data/train").returncode == 0
    assert [path.name for path in sorted((recipe / "data/train/log").iterdir())] == ["validate.1.log", "validate.2.log"]


def test_problems_are_told_once_with_status_1(run, recipe):
    text = (recipe / "data/train/text").read_text()
    (recipe / "data/train/text").write_text(text.replace("spk1-15 it says 15\n", ""))
    try:
        one, several = run("validate", "data/train"), run("--nj", 3, "--piece_size", 9, "validate", "data/train")
    finally:
        (recipe / "data/train/text").write_text(text)
    assert one.returncode == several.returncode == 1 and "spk1-15" in one.stderr
    assert several.stderr == one.stderr


MEMORY = """
import resource, sys
from blspkd.bin.data_dir import main
main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.fixture(scope="module")
def large(recipe) -> dict[int, Path]:
    """Directories of 10,000 and of 100,000 utterances, all of one recording."""
    soundfile.write(recipe / "x.wav", np.sin(np.arange(3200) / 5) * 0.1, 16000)
    folders = {}
    for count in 10_000, 100_000:
        folders[count] = recipe / f"data/{count}"
        folders[count].mkdir()
        ids = [f"spk{number // 100:06d}-{number:08d}" for number in range(count)]
        for name, value in {"wav.scp": f"{recipe}/x.wav", "utt2spk": "{0:.9}", "text": "about {0} dozen words to {0}"
                            }.items():
            (folders[count] / name).write_text("".join(f"{utt_id} {value.format(utt_id)}\n" for utt_id in ids))
        (folders[count] / "spk2utt").write_text("".join(f"{ids[start]:.9} {' '.join(ids[start:start + 100])}\n"
                                                        for start in range(0, count, 100)))
    return folders


@pytest.mark.parametrize("words", [["validate"], ["durations"], ["stats"], ["validate", "--job", "1"]], ids=" ".join)
def test_the_memory_does_not_grow_with_the_directory(large, words):
    peaks = []
    for folder in large.values():
        done = subprocess.run([sys.executable, "-c", MEMORY, words[0], folder, *words[1:], "--piece_size", "5000"],
                              env=ENVIRONMENT, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 8, f"MiB at 10,000 and 100,000 utterances: {peaks}"  # in memory they are over 15
