"""Stage 2's commands: the same files for any number of jobs, after a kill, and after a restart."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from blspkd.bin import generate_continuations, merge_continuations
from blspkd.config import ContinuationConfig, DataConfig, PromptConfig
from blspkd.data.examples import make_examples
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.errors import ConfigError, DataError
from blspkd.generation.continuation import ContinuationWriter
from blspkd.kaldi.data_dir import KaldiDir, read_continuations
from blspkd.kaldi.tables import read_table
from blspkd.training.run import check_continuations

OPTIONS = ["--max_new_tokens", "12", "--part_size", "5", "--batch_size", "1", "--instruction", "Continue:"]
MERGE = ["--max_bad_ratio", "1", "--data_dir"]  # the filters drop most of what a random LLM writes
OUTPUTS = ("continuation", "continuation.info.json")


def make_data_dir(folder: Path, count: int = 23) -> Path:
    folder.mkdir(parents=True)
    words = "the farmer sold six bags and a nurse saw two red cats in the old park on monday".split()
    utt_ids = [f"spk-utt{i:03d}" for i in range(count)]
    texts = [" ".join(words[i % 7:i % 7 + 3 + i % 5]) for i in range(count)]
    (folder / "text").write_text("".join(f"{u} {t}\n" for u, t in zip(utt_ids, texts, strict=True)))
    (folder / "utt2spk").write_text("".join(f"{u} spk\n" for u in utt_ids))
    return folder


@pytest.fixture(scope="module")
def call():
    """Run a command's main in this process, as the shell would in one of its own: `.returncode .stdout .stderr`."""

    def run(module, *words) -> SimpleNamespace:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                module.main([str(word) for word in words])
                returncode = 0
            except SystemExit as end:
                returncode = end.code
        return SimpleNamespace(returncode=returncode, stdout=out.getvalue(), stderr=err.getvalue())

    return run


def options_for(llm, data_dir, job=1, num_jobs=1, options=OPTIONS) -> list[str]:
    return ["--llm", str(llm), "--data_dir", str(data_dir), "--job", str(job), "--num_jobs", str(num_jobs), *options]


def contents(data_dir: Path) -> list[bytes]:
    return [(data_dir / name).read_bytes() for name in OUTPUTS]


@pytest.fixture(scope="module")
def one_job(call, tiny_llm, tmp_path_factory) -> Path:
    """A data directory whose continuations were written by one job, undisturbed."""
    data_dir = make_data_dir(tmp_path_factory.mktemp("one") / "train")
    done = call(generate_continuations, *options_for(tiny_llm, data_dir))
    assert done.returncode == 0, done.stderr
    done = call(merge_continuations, *MERGE, data_dir)
    assert done.returncode == 0, done.stderr
    return data_dir


def test_one_job_writes_continuations_and_info_and_leaves_nothing_else(one_job, tiny_llm):
    info = json.loads((one_job / "continuation.info.json").read_text())
    written = read_continuations(one_job / "continuation")
    assert info["counts"]["utterances"] == 23
    assert info["counts"]["written"] == len(written) > 0
    assert len(written) + sum(info["counts"]["filtered"].values()) == 23
    assert info["model"] == tiny_llm
    assert info["prompt"]["instruction"] == "Continue:"
    assert info["generation"]["max_new_tokens"] == 12
    assert {"torch", "transformers"} <= info["versions"].keys()
    assert sorted(path.name for path in one_job.iterdir()) == sorted([*OUTPUTS, "text", "utt2spk"])


def test_instructions_and_references_of_the_set_change_nothing(one_job, call, tiny_llm, tmp_path):
    """A validation set may have both, for stage 4: here the LLM continues its text as that of any other set."""
    data_dir = make_data_dir(tmp_path / "valid")
    for name in "instruction", "text.qa":
        (data_dir / name).write_text("".join(f"spk-utt{i:03d} Who was it?\n" for i in range(23)))
    assert call(generate_continuations, *options_for(tiny_llm, data_dir)).returncode == 0
    assert call(merge_continuations, *MERGE, data_dir).returncode == 0
    assert contents(data_dir) == contents(one_job)


@pytest.mark.parametrize("num_jobs", [2, 3, 7])
def test_any_number_of_jobs_gives_the_same_files(one_job, call, tiny_llm, tmp_path, num_jobs):
    data_dir = make_data_dir(tmp_path / "train")
    for job in reversed(range(1, num_jobs + 1)):
        assert call(generate_continuations, *options_for(tiny_llm, data_dir, job, num_jobs)).returncode == 0
    assert call(merge_continuations, *MERGE, data_dir).returncode == 0
    assert contents(data_dir) == contents(one_job)


def test_killed_and_started_again_gives_the_same_files(one_job, call, tiny_llm, tmp_path):
    data_dir = make_data_dir(tmp_path / "train")
    words = [sys.executable, "-m", "blspkd.bin.generate_continuations", *options_for(tiny_llm, data_dir)]
    job = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    parts = data_dir / "continuation.parts"
    deadline = time.monotonic() + 120
    while not list(parts.glob("part-*.jsonl")) and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    left = {path.name: path.read_bytes() for path in parts.glob("part-*.jsonl")}
    assert 1 <= len(left) < 5
    (parts / "part-00005-of-00005.jsonl.tmp-1").write_text("what a kill leaves behind")

    done = call(merge_continuations, *MERGE, data_dir)
    assert done.returncode == 1 and "parts are missing" in done.stderr and "run stage 2 again" in done.stderr
    assert not (data_dir / "continuation").exists()

    done = call(generate_continuations, *options_for(tiny_llm, data_dir))
    assert done.returncode == 0 and f"{len(left)} complete, {5 - len(left)} missing" in done.stdout
    assert {name: (parts / name).read_bytes() for name in left} == left
    assert call(merge_continuations, *MERGE, data_dir).returncode == 0
    assert contents(data_dir) == contents(one_job)
    assert not parts.exists()


def at_work(data_dir: Path) -> set[int]:
    """The processes that have claimed something just now."""
    found = set()
    for path in (data_dir / "continuation.parts").rglob("*.lease"):
        with suppress(OSError, ValueError):  # it may have gone
            found.add(json.loads(path.read_text())["process"])
    return found


def test_of_five_jobs_three_are_killed_at_work_and_the_others_write_the_same_files(one_job, call, warm, tiny_llm,
                                                                                   tmp_path):
    data_dir = make_data_dir(tmp_path / "train")
    jobs = [subprocess.Popen([warm / "bin/python", "-m", "blspkd.bin.generate_continuations",
                              *options_for(tiny_llm, data_dir, job, 5)], stderr=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL) for job in range(1, 6)]
    killed: set[int] = set()
    deadline = time.monotonic() + 120
    while len(killed) < 3 and time.monotonic() < deadline and any(job.poll() is None for job in jobs):
        for process in list(at_work(data_dir) - killed)[:3 - len(killed)]:
            os.kill(process, signal.SIGKILL)
            killed.add(process)
    statuses = [job.wait(120) for job in jobs]
    assert killed and statuses.count(0) == 5 - len(killed)
    assert call(merge_continuations, *MERGE, data_dir).returncode == 0
    assert contents(data_dir) == contents(one_job)


def test_a_signal_stops_a_job_which_gives_back_what_it_had_claimed(one_job, call, tiny_llm, tmp_path, monkeypatch):
    data_dir = make_data_dir(tmp_path / "train")
    rows = ContinuationWriter.rows
    monkeypatch.setattr(ContinuationWriter, "rows", lambda *_: signal.raise_signal(signal.SIGTERM))
    done = call(generate_continuations, *options_for(tiny_llm, data_dir))
    assert done.returncode == 75 and "stopped by SIGTERM; start the same command again" in done.stderr
    assert not list(data_dir.rglob("*.lease"))
    monkeypatch.setattr(ContinuationWriter, "rows", rows)
    assert call(generate_continuations, *options_for(tiny_llm, data_dir)).returncode == 0
    assert call(merge_continuations, *MERGE, data_dir).returncode == 0
    assert contents(data_dir) == contents(one_job)


def test_an_utterance_that_breaks_the_tokenizer_is_left_out_and_told(call, tiny_llm, tmp_path, monkeypatch):
    data_dir = make_data_dir(tmp_path / "train")
    split = Prompt.split

    def panic(prompt, text, *rest):
        if text.endswith(" sold six bags"):
            raise TypeError("argument 'sequence': expected str")
        return split(prompt, text, *rest)

    monkeypatch.setattr(Prompt, "split", panic)
    bad = [line.split()[0] for line in open(data_dir / "text") if line.endswith(" sold six bags\n")]
    done = call(generate_continuations, *options_for(tiny_llm, data_dir))
    assert bad and done.returncode == 0 and f"utterance {bad[0]} is left out (failed): TypeError" in done.stderr
    done = call(merge_continuations, *MERGE, data_dir)
    assert done.returncode == 0 and f"failed: {len(bad)}" in done.stdout
    assert json.loads((data_dir / "continuation.info.json").read_text())["filtered"]["failed"] == bad


def test_a_run_with_another_number_of_jobs_goes_on_from_what_is_there(one_job, call, tiny_llm, tmp_path):
    data_dir = make_data_dir(tmp_path / "train")
    for job in 1, 3, 5:
        assert call(generate_continuations, *options_for(tiny_llm, data_dir, job, 5)).returncode == 0
    there = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*.jsonl")}
    for job in 1, 2:
        assert call(generate_continuations, *options_for(tiny_llm, data_dir, job, 2)).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in there} == there
    assert call(merge_continuations, *MERGE, data_dir).returncode == 0
    assert contents(data_dir) == contents(one_job)


def test_a_part_cut_at_a_line_end_is_filled_up(one_job, call, tiny_llm, tmp_path):
    data_dir = make_data_dir(tmp_path / "train")
    assert call(generate_continuations, *options_for(tiny_llm, data_dir)).returncode == 0
    part = data_dir / "continuation.parts" / "part-00002-of-00005.jsonl"
    part.write_text("".join(part.read_text().splitlines(keepends=True)[:-2]))
    done = call(merge_continuations, *MERGE, data_dir)
    assert done.returncode == 1 and "part-00002-of-00005 lacks 2 utterances: spk-utt008 spk-utt009\n" in done.stderr
    done = call(generate_continuations, *options_for(tiny_llm, data_dir))
    assert done.returncode == 0 and "4 complete, 0 missing, 1 incomplete" in done.stdout
    assert call(merge_continuations, *MERGE, data_dir).returncode == 0
    assert contents(data_dir) == contents(one_job)


def test_a_job_without_work_ends_before_the_heavy_imports(tiny_llm, tmp_path):
    data_dir = make_data_dir(tmp_path / "train")
    words = options_for(tiny_llm, data_dir, 6, 100)
    code = ("import sys; from blspkd.bin.generate_continuations import main; main(sys.argv[1:]); "
            "print([name for name in ('torch', 'transformers') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        f"{data_dir}: job 6 of 100: nothing to do, because 23 utterances are work for 5 jobs: 23 batches of 1",
        "[]"], done.stderr


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_a_sample_is_written_for_and_nobody_misses_the_others(call, tiny_llm, tmp_path, num_jobs):
    data_dir = make_data_dir(tmp_path / "train")
    options = [*OPTIONS, "--max_utterances", "20"]
    for job in range(1, num_jobs + 1):
        call(generate_continuations, *options_for(tiny_llm, data_dir, job, num_jobs, options))
    merged = call(merge_continuations, *MERGE, data_dir)
    assert merged.returncode == 0 and "of 20 utterances" in merged.stdout, merged.stderr
    info = json.loads((data_dir / "continuation.info.json").read_text())
    ids = [line.split()[0] for line in (data_dir / "text").read_text().splitlines()]
    written = read_continuations(data_dir / "continuation")
    assert info["counts"]["utterances"] == 20 == info["generation"]["max_utterances"]
    check_continuations(data_dir, ids, written)
    assert "up to date" in call(generate_continuations, *options_for(tiny_llm, data_dir, options=options)).stdout
    assert "up to date" in call(merge_continuations, *MERGE, data_dir).stdout
    lost = next(iter(written))
    with pytest.raises(DataError, match=f"lacks 1 utterances that were not filtered out: {lost}"):
        check_continuations(data_dir, ids, written.keys() - {lost})


def test_each_utterance_has_one_of_several_instructions(call, tiny_llm, tmp_path):
    data_dir = make_data_dir(tmp_path / "train", 200)
    weights = {"Continue:": 3.0, "Say:": 1.0}
    config = PromptConfig(instructions=weights)
    prompt = Prompt(load_tokenizer(str(tiny_llm)), config)
    drawn = {utt_id: prompt.instruction_of(utt_id) for utt_id in read_table(data_dir / "text")}
    assert set(drawn.values()) == set(weights) and 30 < list(drawn.values()).count("Say:") < 70
    one = Prompt(prompt.tokenizer, PromptConfig("Go:"))
    assert one.instruction_of("a") == "Go:"
    writer = ContinuationWriter(str(tiny_llm), ContinuationConfig(prompt=config))
    texts = read_table(data_dir / "text")
    for utt_id, ids in writer._prompts(texts).items():
        assert ids == prompt.split(texts[utt_id], drawn[utt_id])
    data = KaldiDir(data_dir, {utterance.utt_id: replace(utterance, duration=1.0)
                               for utterance in KaldiDir.read(data_dir, need_audio=False)})
    for example in make_examples(data, dict.fromkeys(texts, "a b"), prompt, DataConfig()).examples:
        ids = prompt.split(texts[example.utt_id], drawn[example.utt_id])
        assert example.prefix.tolist() == ids.prefix and example.input.tolist() == ids.input
    with pytest.raises(ConfigError, match="weights are positive"):
        PromptConfig(instructions={"a": 0.0})


def test_too_many_dropped_ones_end_the_merge(call, tiny_llm, tmp_path):
    data_dir = make_data_dir(tmp_path / "train")
    assert call(generate_continuations, *options_for(tiny_llm, data_dir)).returncode == 0
    done = call(merge_continuations, "--data_dir", data_dir)
    assert done.returncode == 1 and "more than --max_bad_ratio 0.5 allows" in done.stderr
    assert not (data_dir / "continuation").exists()


def test_a_second_run_does_nothing_and_other_options_do(one_job, call, tiny_llm):
    before = contents(one_job)
    done = call(generate_continuations, *options_for(tiny_llm, one_job))
    assert done.returncode == 0 and "up to date" in done.stdout
    done = call(merge_continuations, *MERGE, one_job)
    assert done.returncode == 0 and "up to date" in done.stdout
    for seed, expected in ((1, "5 missing"), (2, "5 stale")):
        done = call(generate_continuations, *options_for(tiny_llm, one_job, options=[*OPTIONS, "--seed", seed]))
        assert done.returncode == 0 and expected in done.stdout
    assert contents(one_job) == before  # until the merge


@pytest.mark.parametrize(("words", "message"), [
    (["--llm", "no/such/folder"], "no/such/folder: there is no such folder"),
    (["--max_new_token", "3"], "did you mean 'max_new_tokens'"),
    (["--data_dir", "nowhere"], "nowhere"),
    (["--job", "2"], "jobs are numbered from 1 to num_jobs"),
])
def test_mistakes_end_with_one_message_and_leave_nothing(call, tiny_llm, tmp_path, words, message):
    data_dir = make_data_dir(tmp_path / "train")
    done = call(generate_continuations, *options_for(tiny_llm, data_dir), *words)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert sorted(path.name for path in data_dir.iterdir()) == ["text", "utt2spk"]
