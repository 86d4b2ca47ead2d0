"""Jobs that share a set: nothing is lost, nothing is done twice, whoever is killed, and one bad utterance costs itself.

The LLM is a stand-in that writes the transcript backwards, and that some utterances break.
"""

import inspect
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from blspkd.errors import DataError, Stopped
from blspkd.generation.claims import Job, leases_dir
from blspkd.generation.failures import DEATHS
from blspkd.generation.merge import merge
from blspkd.generation.parts import PER_FOLDER, make_settings, parts_dir, plan_parts
from blspkd.generation.shares import Claims

COUNT = 120


class Backwards:
    def __init__(self, log=None, seconds=0.0, bad=None):
        self.log, self.seconds, self.bad = log, seconds, bad or {}

    def _meet(self, when, batch):
        for utt_id in batch:
            if (when, utt_id) in self.bad:
                self.bad[when, utt_id](batch)

    def plan(self, transcripts):
        self._meet("plan", transcripts)
        ids = sorted(transcripts, key=lambda utt_id: (-len(transcripts[utt_id]), utt_id))
        return [ids[start:start + 2] for start in range(0, len(ids), 2)]

    def rows(self, transcripts, batch):
        time.sleep(self.seconds)
        self._meet("plan", batch)  # the LLM's writer tokenises again
        self._meet("rows", batch)
        if self.log:
            with open(self.log, "a") as log:
                log.write("".join(f"{utt_id}\n" for utt_id in batch if utt_id))
        return [{"utt_id": utt_id, "text": transcripts[utt_id][::-1], "n_tokens": 3, "finished": True, "reason": None}
                for utt_id in batch]


JOB = "import os, time\n" + inspect.getsource(Backwards) + """
import sys
from pathlib import Path
from blspkd.generation.claims import Job
from blspkd.generation.parts import make_settings, plan_parts
from blspkd.generation.shares import Claims
from blspkd.kaldi import leases
from blspkd.kaldi.transcripts import Transcripts

leases.PATIENCE = 0.05
folder, job, num_jobs, start = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
settings = make_settings("llm", {}, {}, {"part_size": 10, "batch_size": 2, "seed": 0})
transcripts = Transcripts.read(folder)
claims = Claims(len(transcripts), 10, 2, num_jobs)
while not start.exists():
    time.sleep(0.001)
worker = Job(plan_parts(folder, transcripts, settings), claims, Backwards(folder.parent / "log", 0.01), {})
worker.run(claims.first_of_job(job, num_jobs))
"""


def settings() -> dict:
    return make_settings("llm", {}, {}, {"part_size": 10, "batch_size": 2, "seed": 0})


def make_dir(folder: Path, count: int = COUNT) -> Path:
    folder.mkdir(parents=True)
    ids = [f"utt{number:05d}" for number in range(count)]
    (folder / "text").write_text("".join(f"{utt_id} sentence {'x' * (index % 7)} {index}\n"
                                         for index, utt_id in enumerate(ids)))
    (folder / "utt2spk").write_text("".join(f"{utt_id} spk\n" for utt_id in ids))
    return folder


def texts(folder: Path) -> dict[str, str]:
    return dict(line.rstrip("\n").split(" ", 1) for line in (folder / "text").open())


def job(folder: Path, writer, num_jobs: int = 1) -> Job:
    plan = plan_parts(folder, texts(folder), settings())
    return Job(plan, Claims(len(plan.transcripts), 10, 2, num_jobs), writer, {})


def merged(folder: Path) -> bytes:
    merge(folder, texts(folder))
    return (folder / "continuation").read_bytes() + (folder / "continuation.info.json").read_bytes()


@pytest.fixture(scope="module")
def one_job(tmp_path_factory) -> bytes:
    folder = make_dir(tmp_path_factory.mktemp("one") / "train")
    job(folder, Backwards()).run()
    return merged(folder)


def start(folder: Path, number: int, num_jobs: int, go: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", JOB, folder, str(number), str(num_jobs), go],
                            stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("seed", range(3))
def test_of_five_jobs_three_are_killed_and_the_others_do_everything_once(one_job, tmp_path, seed):
    folder, draw = make_dir(tmp_path / "train"), random.Random(seed)
    jobs = [start(folder, number, 5, tmp_path / "go") for number in range(1, 6)]
    time.sleep(1)
    (tmp_path / "go").touch()  # all in the same instant
    log = tmp_path / "log"
    for victim in draw.sample(jobs, 3):
        enough = len(log.read_text().split()) + draw.randrange(1, 20) if log.exists() else 1
        end = time.monotonic() + 60
        while (not log.exists() or len(log.read_text().split()) < enough) and time.monotonic() < end:
            time.sleep(0.001)
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
    assert sorted(job.wait(60) for job in jobs) == [-9, -9, -9, 0, 0]
    rows = [json.loads(line)["utt_id"] for path in parts_dir(folder).rglob("*.jsonl")
            for line in path.read_text().splitlines()[1:]]
    assert Counter(rows) == Counter(texts(folder).keys())  # of each exactly one line
    computed = Counter(log.read_text().split())
    assert sum(computed.values()) - COUNT <= 3 * 10  # a kill costs what its job had claimed
    assert merged(folder) == one_job and not parts_dir(folder).exists()


def test_jobs_that_start_in_the_same_instant_do_nothing_twice(one_job, tmp_path):
    folder = make_dir(tmp_path / "train")
    jobs = [start(folder, 1, 1, tmp_path / "go") for _ in range(2)]  # which even begin with the same
    time.sleep(1)
    (tmp_path / "go").touch()
    assert [job.wait(60) for job in jobs] == [0, 0]
    assert Counter((tmp_path / "log").read_text().split()) == Counter(texts(folder).keys())
    assert merged(folder) == one_job


def test_fewer_jobs_go_on_where_more_were_killed(one_job, tmp_path):
    folder, log = make_dir(tmp_path / "train"), tmp_path / "log"
    (tmp_path / "go").touch()
    jobs = [start(folder, number, 5, tmp_path / "go") for number in range(1, 6)]
    while not log.exists() or len(log.read_text().split()) < 30:
        time.sleep(0.001)
    for one in jobs:
        os.kill(one.pid, signal.SIGKILL)
        one.wait()
    before = {path: path.read_bytes() for path in parts_dir(folder).rglob("*.jsonl")}
    assert before
    assert start(folder, 1, 1, tmp_path / "go").wait(60) == 0
    assert not [path for path in before if path.read_bytes()[:len(before[path])] != before[path]]
    assert merged(folder) == one_job


class Gone(BaseException):
    """A panic in a library that is no Exception."""


def failing(error: BaseException, alone_too: bool = True):
    def fail(batch):
        if alone_too or len(batch) > 1:
            raise error

    return fail


@pytest.mark.parametrize("when", ["plan", "rows"])
@pytest.mark.parametrize("error", [TypeError("not a text"), MemoryError(), Gone("a panic in Rust")])
def test_a_poisonous_utterance_is_recorded_and_the_others_are_as_ever(tmp_path, capsys, when, error):
    folder = make_dir(tmp_path / "train")
    job(folder, Backwards(bad={(when, "utt00013"): failing(error)})).run()
    info = merge(folder, texts(folder))
    assert info["filtered"] == {"failed": ["utt00013"]} and info["counts"]["filtered"] == {"failed": 1}
    assert info["counts"]["written"] == COUNT - 1
    lines = (folder / "continuation").read_text().splitlines()
    assert lines == [f"{utt_id} {json.dumps(text[::-1])}" for utt_id, text in texts(folder).items()
                     if utt_id != "utt00013"]
    said = capsys.readouterr().err
    assert f"utterance utt00013 is left out (failed): {type(error).__name__}" in said


def test_a_batch_that_does_not_fit_is_done_one_by_one(one_job, tmp_path, capsys):
    folder = make_dir(tmp_path / "train")
    full = failing(RuntimeError("CUDA out of memory"), alone_too=False)
    job(folder, Backwards(bad={("rows", "utt00013"): full})).run()
    assert merged(folder) == one_job
    assert "a batch of 2 utterances failed: RuntimeError: CUDA out of memory" in capsys.readouterr().err


@pytest.mark.parametrize("error", [DataError("utterance utt00013: correct its line"), Stopped("by SIGTERM"),
                                   KeyboardInterrupt()])
def test_what_the_user_has_to_correct_and_signals_end_the_job_and_give_the_lease_back(tmp_path, error):
    folder = make_dir(tmp_path / "train")
    with pytest.raises(type(error)):
        job(folder, Backwards(bad={("rows", "utt00013"): failing(error)})).run()
    assert not [path for path in leases_dir(parts_dir(folder)).rglob("*") if path.is_file()]


def test_many_failed_ones_end_the_merge(tmp_path):
    folder = make_dir(tmp_path / "train")
    bad = {("rows", f"utt{number:05d}"): failing(TypeError("x")) for number in range(70)}
    job(folder, Backwards(bad=bad)).run()
    with pytest.raises(DataError, match=r"70 dropped \(failed: 70\): more than --max_bad_ratio 0.5 allows"):
        merge(folder, texts(folder))


def test_a_device_that_is_of_no_use_any_more_ends_the_job_and_nobody_is_recorded(one_job, tmp_path):
    folder, writer = make_dir(tmp_path / "train"), Backwards()

    def break_down(batch):
        writer.bad = dict.fromkeys((("rows", utt_id) for utt_id in ["", *texts(folder)]),
                                   failing(RuntimeError("CUDA error: device-side assert triggered")))
        raise RuntimeError("CUDA error: device-side assert triggered")

    writer.bad = {("rows", "utt00013"): break_down}
    with pytest.raises(RuntimeError, match="device-side assert"):
        job(folder, writer).run()
    job(folder, Backwards()).run()
    assert merged(folder) == one_job


KILLED = JOB.replace("Backwards(folder.parent / \"log\", 0.01)", "Backwards(folder.parent / \"log\", 0.0, "
                     "{(when, utt_id): lambda batch: os.kill(os.getpid(), 9) for when, utt_id in BAD})")


@pytest.mark.parametrize("bad", [[("rows", "utt00013")], [("plan", "utt00013")],
                                 [("rows", "utt00013"), ("rows", "utt00015")]])
def test_an_utterance_that_kills_its_process_is_skipped_after_some_deaths(tmp_path, bad):
    """The same command again and again, as a scheduler's retries do it, comes to an end."""
    folder = make_dir(tmp_path / "train")
    (tmp_path / "go").touch()
    code = KILLED.replace("BAD", repr(bad))
    statuses = []
    while not statuses or (statuses[-1] == -9 and len(statuses) < 20):
        done = subprocess.run([sys.executable, "-c", code, folder, "1", "1", tmp_path / "go"], text=True,
                              stderr=subprocess.PIPE)
        statuses.append(done.returncode)
    assert statuses == [-9] * (DEATHS + len(bad)) + [0], done.stderr
    info = merge(folder, texts(folder))
    assert info["filtered"] == {"failed": [utt_id for _, utt_id in bad]}
    assert info["counts"]["written"] == COUNT - len(bad)


def test_an_innocent_utterance_survives_two_kills(one_job, tmp_path):
    folder, writer = make_dir(tmp_path / "train"), Backwards()
    for _ in range(DEATHS):
        writer.bad = dict.fromkeys([("rows", ""), ("rows", "utt00013")], failing(Gone()))  # it is the machine
        with pytest.raises(Gone):
            job(folder, writer).run()
    writer.bad = {}
    job(folder, writer).run()
    assert merged(folder) == one_job


def test_a_job_that_stood_still_writes_nothing_when_another_has_taken_over(tmp_path, monkeypatch):
    folder = make_dir(tmp_path / "train", 6)
    slow = job(folder, Backwards())

    def stand_still(batch):
        slow.writer.bad = {}
        [lease] = leases_dir(parts_dir(folder)).rglob("*.lease")
        os.utime(lease, (0, 0))
        job(folder, Backwards()).run()
        [file] = parts_dir(folder).rglob("*.jsonl")
        stand_still.date = file.stat().st_mtime_ns

    slow.writer.bad = {("rows", "utt00003"): stand_still}
    slow.run()
    [file] = parts_dir(folder).rglob("*.jsonl")
    assert file.stat().st_mtime_ns == stand_still.date


def test_no_folder_holds_more_than_a_thousand_files(tmp_path):
    folder = tmp_path / "train"
    transcripts = {f"utt{number:06d}": "x" for number in range(900)}
    made_from = make_settings("llm", {}, {}, {"part_size": 1, "batch_size": 1, "seed": 0})
    plan = plan_parts(folder, transcripts, made_from)
    Job(plan, Claims(900, 1, 1, 1), Backwards(), {}).run()
    counts = Counter(path.parent for path in parts_dir(folder).rglob("*"))
    assert max(counts.values()) == PER_FOLDER and 2 * PER_FOLDER < 1000
    assert merge(folder, transcripts)["counts"]["written"] == 900
    assert (folder / "continuation").read_text().splitlines() == [f'{utt_id} "x"' for utt_id in transcripts]
