"""The LibriSpeech recipe: local/data.sh on a made-up tree, the download, and the whole path on a part of the corpus."""

import hashlib
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from blspkd.config import ContinuationConfig, TrainConfig
from blspkd.config_file import load_config
from blspkd.evaluation.comparison_plan import plan
from blspkd.evaluation_config import CompareConfig, DecodeConfig
from blspkd.kaldi.check import validate
from blspkd.kaldi.tables import read_table
from blspkd.training.phases import phases
from blspkd.training.run import resolved

REPOSITORY = Path(__file__).parents[2]
RECIPE = REPOSITORY / "egs" / "librispeech" / "blspkd1"
CORPUS = REPOSITORY.parent / "shared" / "data" / "LibriSpeech"
TREE = {
    "train-clean-100/19/198/19-198": ["NORTHANGER ABBEY", "THIS LITTLE WORK WAS FINISHED"],
    "train-other-500/20/205/20-205": ["DON'T"],
    "dev-clean/84/121/84-121": ["GO", "DO YOU KNOW"],
    "test-clean/61/70/61-70": ["HE BEGAN A CONFUSED COMPLAINT"],
}


def copy_recipe(folder: Path) -> Path:
    made = shutil.ignore_patterns("data", "dump", "exp", "downloads", "RESULTS.md", "__pycache__")
    return Path(shutil.copytree(RECIPE, folder, ignore=made))


@pytest.fixture(scope="module")
def run(warm) -> Callable[..., subprocess.CompletedProcess]:
    """Run a script in a recipe's folder, with the warm Python."""
    def call(recipe: Path, script: str, *words: object, timeout: float = 60, **variables: str
             ) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "VENV": str(warm)}
        environment |= variables
        return subprocess.run([script, *map(str, words)], cwd=recipe, env=environment, text=True, timeout=timeout,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    return call


def write_tree(folder: Path) -> Path:
    for chapter, sentences in TREE.items():
        path = folder / chapter
        path.parent.mkdir(parents=True)
        ids = [f"{path.name}-{number:04d}" for number in range(len(sentences))]
        lines = [f"{utt_id} {sentence}\n" for utt_id, sentence in zip(ids, sentences, strict=True)]
        path.with_name(f"{path.name}.trans.txt").write_text("".join(lines))
        for utt_id in ids:
            path.with_name(f"{utt_id}.flac").write_bytes(b"fLaC")
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """A copy of the recipe; tests choose a --datadir of their own."""
    return copy_recipe(tmp_path_factory.mktemp("recipe") / "blspkd1")


@pytest.fixture
def tree(tmp_path) -> Path:
    return write_tree(tmp_path / "Libri Speech")


@pytest.fixture
def prepare(run, recipe, tree, tmp_path):
    """Runs local/data.sh on the tree; returns its output and the folder of the data directories."""

    def of(*words: str, fails: bool = False, librispeech: Path = tree) -> tuple[str, Path]:
        done = run(recipe, "local/data.sh", "--librispeech", librispeech, "--datadir", tmp_path / "data", *words)
        assert done.returncode == int(fails), done.stdout
        return done.stdout, tmp_path / "data"

    return of


def test_parts_that_are_there_are_joined_in_kaldis_form(prepare, tree):
    output, data = prepare()
    assert {path.name for path in data.iterdir()} == {"train", "valid", "test_clean", "local"}
    assert all(validate(data / name) == [] for name in ("train", "valid", "test_clean"))
    assert read_table(data / "train/text") == {"19-198-0000": "northanger abbey", "20-205-0000": "don't",
                                               "19-198-0001": "this little work was finished"}
    assert read_table(data / "train/utt2spk")["19-198-0001"] == "19-198"
    assert read_table(data / "valid/wav.scp")["84-121-0000"] == f"{tree}/dev-clean/84/121/84-121-0000.flac"
    for part in ("train-clean-360", "dev-other", "test-other"):
        assert re.search(f"WARNING: .* has no {part};.*--download true", output)
    assert '--test_sets "test_clean"' in output


def test_capitals_can_stay_and_sets_can_be_small(prepare):
    _, data = prepare("--lowercase", "false", "--max_utterances", "2")
    assert read_table(data / "train/text") == {"19-198-0000": "NORTHANGER ABBEY",
                                               "19-198-0001": "THIS LITTLE WORK WAS FINISHED"}
    assert len(read_table(data / "valid/text")) == 2 and len(read_table(data / "test_clean/text")) == 1


def test_made_again_it_keeps_what_stage_2_wrote(prepare):
    _, data = prepare()
    (data / "train" / "continuation").write_text("19-198-0000 \"precious\"\n")
    prepare()
    assert (data / "train" / "continuation").is_file()


def test_a_transcript_without_recording_stops_or_is_left_out(prepare, tree):
    (tree / "train-clean-100/19/198/19-198-0001.flac").unlink()
    output, _ = prepare(fails=True)
    assert "1 transcripts without a recording (19-198-0001)" in output and "--allow_incomplete true" in output
    output, data = prepare("--allow_incomplete", "true")
    assert "left out 1 transcripts without a recording (19-198-0001)" in output
    assert read_table(data / "train/text").keys() == {"19-198-0000", "20-205-0000"}


def test_a_recording_without_transcript_stops_or_is_left_out(prepare, tree):
    (tree / "dev-clean/84/121/84-121-0007.flac").touch()
    output, _ = prepare(fails=True)
    assert "1 recordings without a transcript (84-121-0007)" in output
    _, data = prepare("--allow_incomplete", "true")
    assert len(read_table(data / "valid/text")) == 2


@pytest.mark.parametrize("line", ["84-121-0002", "84-122-0002 OF ANOTHER CHAPTER", ""])
def test_a_damaged_transcript_is_named_with_its_line(prepare, tree, line):
    with open(tree / "dev-clean/84/121/84-121.trans.txt", "a") as file:
        file.write(line + "\n")
    output, _ = prepare(fails=True)
    assert "84-121.trans.txt:3: expected '84-121-<number> WORDS'" in output


def test_a_wrong_path_says_where_to_put_the_right_one(prepare, tree):
    output, _ = prepare(fails=True, librispeech=tree / "nowhere")
    assert "nowhere' is no folder" in output and "LIBRISPEECH in db.sh" in output and "Traceback" not in output
    tree.rename(tree.parent / "LibriSpeech")
    output, _ = prepare(fails=True, librispeech=tree.parent)
    assert "needs at least one of train-clean-100" in output and f"did you mean {tree.parent}/LibriSpeech?" in output


def test_a_part_without_chapters_is_named(prepare, tree):
    shutil.rmtree(tree / "dev-clean/84")
    output, _ = prepare(fails=True)
    assert "dev-clean: holds no <speaker>/<chapter>/*.trans.txt" in output


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves files, from where a client asks for; the first answer to each breaks off in the middle."""

    asked: list = []

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        start, size = int(re.sub(r"\D", "", self.headers.get("Range", "0"))), path.stat().st_size
        content = path.read_bytes()[start:]
        self.asked.append((path.name, start))
        if not content:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()
        self.wfile.write(content if start else content[:len(content) // 2])

    def log_message(self, *_):
        pass


@pytest.fixture
def archive(tmp_path):
    """A dev-clean.tar.gz like the official one."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in {"LibriSpeech/LICENSE.TXT": b"CC BY 4.0", "LibriSpeech/dev-clean/84/121/84-121.trans.txt":
                              b"84-121-0000 GO\n", "LibriSpeech/dev-clean/84/121/84-121-0000.flac": os.urandom(9999)
                              }.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def download(run, tmp_path, archive, monkeypatch):
    """Runs local/download.sh on a server that breaks off; its checksums are those of `archive`."""
    recipe = copy_recipe(tmp_path / "blspkd1")
    (recipe / "local/md5sum.txt").write_text(f"{hashlib.md5(archive).hexdigest()}  dev-clean.tar.gz\n")
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "dev-clean.tar.gz").write_bytes(archive)
    monkeypatch.setattr(Ranges, "asked", [])
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *words: Ranges(*words, directory=str(tmp_path / "server")))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def of(*parts: str, fails: bool = False) -> str:
        done = run(recipe, "local/download.sh", "--url", f"http://127.0.0.1:{server.server_port}",
                   tmp_path / "the corpus", *parts)
        assert done.returncode == int(fails), done.stdout
        return done.stdout

    yield of
    server.shutdown()
    server.server_close()


def test_a_download_that_breaks_off_continues_and_is_checked_and_unpacked(download, tmp_path, archive):
    output = download("dev-clean")
    assert Ranges.asked == [("dev-clean.tar.gz", 0), ("dev-clean.tar.gz", len(archive) // 2)]
    assert (tmp_path / "the corpus/dev-clean/84/121/84-121.trans.txt").read_text() == "84-121-0000 GO\n"
    assert {path.name for path in (tmp_path / "the corpus").iterdir()} == {"dev-clean", "LICENSE.TXT"}
    assert re.search(r"to fetch: dev-clean; this needs 707 MB in .*/the corpus, where \d+ MB are free", output)
    assert download("dev-clean") == "" and len(Ranges.asked) == 2  # it is there


def test_what_an_earlier_download_left_is_used(download, tmp_path, archive):
    (tmp_path / "the corpus/.unpack-dev-clean/LibriSpeech/dev-clean/half").mkdir(parents=True)
    (tmp_path / "the corpus/dev-clean.tar.gz").write_bytes(archive[:100])
    download("dev-clean")
    assert Ranges.asked == [("dev-clean.tar.gz", 100)]
    assert {path.name for path in (tmp_path / "the corpus/dev-clean").iterdir()} == {"84"}
    shutil.rmtree(tmp_path / "the corpus/dev-clean")
    (tmp_path / "the corpus/dev-clean.tar.gz").write_bytes(archive)  # whole: nothing is asked for
    download("dev-clean")
    assert len(Ranges.asked) == 1 and (tmp_path / "the corpus/dev-clean").is_dir()


def test_another_archive_than_the_official_one_is_refused(download, tmp_path):
    (tmp_path / "blspkd1/local/md5sum.txt").write_text(f"{'0' * 32}  dev-clean.tar.gz\n")
    for _ in range(2):  # the second finds nothing left to fetch
        assert "is not the official archive" in download("dev-clean", fails=True)
    assert {path.name for path in (tmp_path / "the corpus").iterdir()} == {"dev-clean.tar.gz"}


def test_no_download_where_it_does_not_fit_or_is_not_there(download, tmp_path, monkeypatch):
    output = download("dev-other", fails=True)
    assert "404" in output and "dev-other.tar.gz: cannot be fetched" in output and "name a mirror" in output
    assert "LibriSpeech has no part 'dev-cleam'" in download("dev-cleam", fails=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/df").write_text("#!/bin/sh\necho header\necho disk 1000 900 100 90% /\n")
    (tmp_path / "bin/df").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert "100 MB are free, and 707 MB are needed" in download("dev-clean", fails=True) and not Ranges.asked


def test_every_part_has_a_checksum():
    rows = [line.split() for line in (RECIPE / "local/md5sum.txt").read_text().splitlines()]
    assert all(re.fullmatch("[0-9a-f]{32}", digest) for digest, _ in rows)
    sizes = re.findall(r"\[([a-z]+-[a-z]+(?:-\d+)?)\]=\d", (RECIPE / "local/download.sh").read_text())
    assert len(sizes) == 7 and {f"{part}.tar.gz" for part in sizes} == {name for _, name in rows}


@pytest.mark.parametrize("name, num_gpus, utterances", [("train", 1, 256), ("train_8gpu", 8, 512),
                                                        ("train_64gpu", 64, 768)])
def test_a_step_sees_as_many_utterances_as_the_comment_says(name, num_gpus, utterances):
    path = RECIPE / "conf" / f"{name}.yaml"
    config = load_config(TrainConfig, path)
    assert config.data.batch_utterances * config.training.gradient_accumulation * num_gpus == utterances
    assert re.search(rf"^# .*A step sees .*= {utterances}\b", path.read_text(), re.MULTILINE)


def test_configurations_can_be_read():
    two = phases(resolved(load_config(TrainConfig, RECIPE / "conf/train_align.yaml")), "exp/a")
    assert [phase.loss.distils for phase, _ in two] == [False, True]
    load_config(ContinuationConfig, RECIPE / "conf/continuation.yaml")
    assert load_config(DecodeConfig, RECIPE / "conf/decode.yaml").tasks["repeat"].metrics == ["wer"]
    for name in ("compare", "compare_debug"):
        config = load_config(CompareConfig, RECIPE / "conf" / f"{name}.yaml")
        for budget in config.budgets:
            runs = plan(config, budget, RECIPE / "conf" / name)
            assert {one.system for one in runs} == config.systems.keys() == {
                path.stem for path in (RECIPE / "conf" / name).glob("*.yaml")}
            assert all(one.max_steps > 0 for one in runs if not one.reads)


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory) -> Path:
    """The recipe after all stages, with tiny models, on the part of the corpus that is here."""
    if not CORPUS.is_dir():
        pytest.skip("no part of LibriSpeech here")
    recipe = copy_recipe(tmp_path_factory.mktemp("librispeech") / "blspkd1")
    (recipe / "db.sh").write_text(f"LIBRISPEECH='{CORPUS}'\n")
    done = run(recipe, "./run_debug.sh", "--stop_stage", "compare", "--transcribe_args", "--max_new_tokens 6",
               timeout=400)
    assert done.returncode == 0, done.stdout[-6000:]
    (recipe / "screen").write_text(done.stdout)
    return recipe


def test_the_whole_path_runs_with_tiny_models_of_the_same_classes(finished):
    models = finished / "exp" / "debug_models"
    assert json.loads((models / "llm/config.json").read_text())["architectures"] == ["Qwen2ForCausalLM"]
    assert json.loads((models / "whisper/config.json").read_text())["model_type"] == "whisper"
    for name in ("train", "valid", "test_clean"):
        assert len(read_table(finished / "data/debug" / name / "utt2dur")) == 12
    assert len((finished / "data/debug/train/continuation").read_text().splitlines()) >= 6
    config = yaml.safe_load((finished / "exp/debug/config.yaml").read_text())
    assert config["model"]["pad_to_30s"] and config["training"]["max_steps"] == 4
    assert (finished / "exp/debug/model/adapter.safetensors").is_file()
    rows = json.loads((finished / "exp/debug/results.json").read_text())
    assert {("text", "repeat", "wer"), ("chance", "repeat", "wer"), ("blspkd", "repeat", "wer"),
            ("blspkd", "alignment", "count_accuracy")} <= {(row["system"], row["task"], row["metric"]) for row in rows}
    assert "test_clean" in (finished / "exp/debug/RESULTS.md").read_text()


def test_the_comparison_has_a_system_that_listens_and_one_that_reads(finished):
    folder = finished / "exp" / "compare_debug"
    rows = json.loads((folder / "results.json").read_text())
    assert {"cascade", "blspkd"} <= {row["system"] for row in rows}
    assert any(row["task"] == "asr" and row["metric"] == "wer" for row in rows)
    asr = json.loads((folder / "cascade/asr_test_clean/decode.json").read_text())
    assert "'max_new_tokens': 6" in str(asr)
    assert (folder / "report.html").is_file() and not (finished / "RESULTS.md").exists()


def test_started_again_it_finds_everything_done(run, finished):
    done = run(finished, "./run_debug.sh", "--stop_stage", "train")
    assert done.returncode == 0 and "train: done on" in done.stdout, done.stdout


def test_on_a_slurm_cluster_the_recipe_makes_the_same_files(run, finished, slurm, tmp_path):
    recipe = copy_recipe(tmp_path / "blspkd1")
    shutil.copy(finished / "db.sh", recipe)
    commands = recipe / "cmd.sh"
    commands.write_text(commands.read_text().replace("cluster=utils/run.py", "cluster=utils/slurm.py"))
    done = run(recipe, "./run_debug.sh", "--nj", 2, timeout=400, SLURM_CONF=slurm["SLURM_CONF"], PATH=slurm["PATH"])
    assert done.returncode == 0, done.stdout[-6000:]
    for folder, names in (("data/debug/train/log", ["generate_continuations.BLSPKD_JOB"]), ("exp/debug", ["train"]),
                          ("exp/debug/log", ["decode.BLSPKD_JOB"])):
        assert [path.stem for path in (recipe / folder / "slurm").glob("*.sh")] == names
    made = [path.relative_to(finished) for pattern in (
        "data/debug/*/text", "data/debug/*/utt2dur", "data/debug/*/continuation", "exp/debug/model/*.safetensors",
        "exp/debug/decode_*/hyp.jsonl", "exp/debug/decode_*/text") for path in finished.glob(pattern)]
    assert len(made) >= 14
    assert not [path for path in made if (recipe / path).read_bytes() != (finished / path).read_bytes()]
