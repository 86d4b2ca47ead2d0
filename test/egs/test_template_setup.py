"""The recipe template around blspkd.sh: setup.sh, path.sh, and scripts with Kaldi's names."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).parents[2] / "egs" / "TEMPLATE" / "blspkd1"
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "python": sys.executable}


def test_unwritten_local_data_says_so(tmp_path):
    subprocess.run([TEMPLATE / "setup.sh", tmp_path / "new"], check=True, capture_output=True)
    result = subprocess.run([tmp_path / "new/run.sh"], capture_output=True, text=True,
                            env=ENVIRONMENT)
    assert result.returncode == 1
    assert "local/data.sh of this recipe is not written yet" in result.stderr


def test_setup_takes_relative_folders_and_refuses_those_that_are_there(tmp_path):
    assert subprocess.run([TEMPLATE / "setup.sh", "a/b"], cwd=tmp_path, capture_output=True).returncode == 0
    assert (tmp_path / "a/b/conf/train.yaml").is_file() and (tmp_path / "a/b/utils/run.py").is_file()
    again = subprocess.run([TEMPLATE / "setup.sh", "a/b"], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 1 and "is there already" in again.stderr


def test_path_returns_where_blspkd_cannot_be_used_and_leaves_the_shell_alive(tmp_path):
    script = f"python=/bin/false; . '{TEMPLATE}/path.sh' || echo returned $?"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert result.stdout == "returned 1\n"
    assert "cannot import blspkd" in result.stderr


def test_path_sets_the_environment():
    script = f"python={sys.executable}; . '{TEMPLATE}/path.sh'; echo $LC_ALL $PYTHONIOENCODING ${{PYTHONPATH%%:*}}"
    result = subprocess.run(["bash", "-euc", script], capture_output=True, text=True)
    assert result.stdout.split() == ["C", "UTF-8", str(TEMPLATE.parents[2])]


@pytest.fixture
def kaldi(tmp_path):
    """Runs a script of utils/ in a folder with a data directory."""
    data = tmp_path / "data/train"
    data.mkdir(parents=True)
    for name, content in {"wav.scp": "s1-a a.wav\ns1-b b.wav\ns2-c c.wav\n", "text": "s1-a A\ns1-b B\ns2-c C\n",
                          "utt2spk": "s1-a s1\ns1-b s1\ns2-c s2\n", "spk2utt": "s1 s1-a s1-b\ns2 s2-c\n"}.items():
        (data / name).write_text(content)

    def run(script, *words):
        return subprocess.run([TEMPLATE / "utils" / script, *words], cwd=tmp_path, env=ENVIRONMENT, text=True,
                              capture_output=True)

    return run


def test_speaker_maps_are_turned_round_as_kaldi_does(kaldi, tmp_path):
    assert kaldi("utt2spk_to_spk2utt.pl", "data/train/utt2spk").stdout == (tmp_path / "data/train/spk2utt").read_text()
    assert kaldi("spk2utt_to_utt2spk.pl", "data/train/spk2utt").stdout == (tmp_path / "data/train/utt2spk").read_text()


def test_validate_takes_kaldis_options(kaldi):
    result = kaldi("validate_data_dir.sh", "--no-feats", "data/train")
    assert result.returncode == 1 and "a.wav" in result.stderr
    assert kaldi("validate_data_dir.sh", "--no-feats", "--check_files", "false", "data/train").returncode == 0


@pytest.mark.parametrize("words, made", [
    (["subset_data_dir.sh", "--first", "data/train", "2", "data/two"], ["data/two/text"]),
    (["split_data.sh", "data/train", "2"], ["data/train/split2/1/text", "data/train/split2/2/text"]),
])
def test_data_directories_are_cut(kaldi, tmp_path, words, made):
    result = kaldi(*words)
    assert result.returncode == 0, result.stderr
    assert all((tmp_path / path).is_file() for path in made)


def test_data_directories_are_joined_and_fixed(kaldi, tmp_path):
    kaldi("subset_data_dir.sh", "--first", "data/train", "1", "data/one")
    kaldi("subset_data_dir.sh", "--last", "data/train", "1", "data/last")
    assert kaldi("combine_data.sh", "data/both", "data/one", "data/last").returncode == 0
    assert (tmp_path / "data/both/text").read_text() == "s1-a A\ns2-c C\n"
    assert kaldi("copy_data_dir.sh", "--utt-prefix", "x-", "--spk-prefix", "x-",
                 "data/one", "data/other").returncode == 0
    assert (tmp_path / "data/other/utt2spk").read_text() == "x-s1-a x-s1\n"
    (tmp_path / "data/both/text").write_text("s2-c C\n")
    assert kaldi("fix_data_dir.sh", "--check_files", "false", "data/both").returncode == 0
    assert (tmp_path / "data/both/utt2spk").read_text() == "s2-c s2\n"


def test_printed_remedies_work_when_they_are_pasted_in_the_recipes_folder(kaldi, tmp_path):
    recipe = tmp_path / "recipe"
    subprocess.run([TEMPLATE / "setup.sh", recipe], check=True, capture_output=True)
    broken = tmp_path / "my data" / "train"
    (tmp_path / "data").rename(tmp_path / "my data")
    (broken / "text").write_text("s1-b B\ns1-a A\ns2-c C\n")
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "PYTHONPATH"}

    def paste(command):
        return subprocess.run(["bash", "-c", command], cwd=recipe, env=environment, text=True, capture_output=True)

    error = paste(f"utils/validate_data_dir.sh --check_files false '{broken}'").stderr
    [remedy] = re.findall(r"^  (utils/\S+ .*)$", error, re.MULTILINE)
    assert paste(f"{remedy} --check_files false").returncode == 0
    assert (broken / "text").read_text() == "s1-a A\ns1-b B\ns2-c C\n"
    error = paste(f"utils/subset_data_dir.sh --shortest '{broken}' 1 data/one").stderr
    [remedy] = re.findall(r"`(utils/\S+ .*)`", error)
    assert "a.wav" in paste(remedy).stderr  # it was found, and looked for the audio
