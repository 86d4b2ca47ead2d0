"""What slurm.py submits: a batch script, readable, in the folder `slurm` beside the log, and the words of sbatch."""

import os
import re
import shlex
import sys
from pathlib import Path

from runner.account import now
from runner.remote_job import RemoteJob
from runner.request import Request, count, fail, program
from runner.screen import Screen
from runner.slurm_queue import SlurmQueue, submit

UTILS = os.path.dirname(os.path.abspath(sys.argv[0]))
NOT_SBATCHS = {"max_jobs_run", "keep_going", "num_threads", "gpu", "screen", "requeues", "retries", "V"}
OURS_ALONE = {"array", "a", "wait", "W", "wrap", "parsable", "output", "o", "error", "e", "export", "nodes", "N",
              "ntasks", "n", "test_only", "no_requeue", "chdir", "D"}


class Submission:
    """The files and the sbatch command of a request."""

    def __init__(self, request: Request):
        self.request = request
        options = request.options
        self.nodes = len(request.numbers) if request.name.endswith("NODE") else 1
        self.is_array = bool(request.name) and not request.name.endswith("NODE")
        log = Path(request.log)
        self.folder = log.parent / "slurm"
        self.name = log.name.removesuffix(".log")
        # without a comma: squeue takes several names
        self.job_name = re.sub(r"[^\w.+-]", "_", request.fill(self.name, "").rstrip("._-")) or "job"
        self.script = self.folder / f"{self.name}.sh"
        self.number_file = self.folder / f"{self.name}.id"
        self.limits = [f"--requeues={count(options, 'requeues', 100, 0)}",
                       f"--retries={count(options, 'retries', 2, 0)}"]

    def jobs(self) -> list:
        numbers = self.request.numbers
        return [RemoteJob(number, self.request.fill(self.request.log, number), self.request.words(number),
                          Path(f"{self.folder / self.name}.{number if self.is_array else numbers[0]}.attempts"),
                          Path(f"{self.folder / self.name}.{number}.out" if self.is_array
                               else f"{self.folder / self.name}.out"))
                for number in numbers]

    def arguments(self) -> list:
        """Of sbatch, without the script."""
        options, numbers = self.request.options, self.request.numbers
        words = ["--requeue", "--open-mode=append", "--signal=B:USR1@120", f"--job-name={self.job_name}",
                 "--export=ALL", f"--nodes={self.nodes}", "--ntasks-per-node=1",
                 f"--cpus-per-task={count(options, 'num_threads', 1, 1)}"]
        if count(options, "gpu", 0, 0):
            words.append(f"--gres=gpu:{count(options, 'gpu', 0, 0)}")
        for key, value in options.items():
            if key in OURS_ALONE:
                fail(f"--{key} {value}: {program()} sets this itself")
            if key not in NOT_SBATCHS:
                option = f"--{key.replace('_', '-')}" if len(key) > 1 else f"-{key}"
                words += [option] if value == "true" else [f"{option}={value}"] if len(key) > 1 else [option, value]
        output = f"{self.folder / self.name}".replace("%", "%%")
        if self.is_array:
            limit = f"%{count(options, 'max_jobs_run', 1, 1)}" if "max_jobs_run" in options else ""
            words.append(f"--array={numbers[0]}-{numbers[-1]}{limit}")
            output += ".%a"
        return [*words, f"--output={output}.out"]

    def text(self) -> str:
        """The batch script. `bash SCRIPT NUMBER` runs one of its jobs on this machine."""
        request = self.request
        inner = [f"{UTILS}/run.py", *(word for key in ("gpu", "num_threads") if key in request.options
                                      for word in (f"--{key}", request.options[key]))]
        command = [*map(quote, inner), *('"$1"'.join(map(quote, request.split(word))) or "''"
                                         for word in (request.log, *request.command))]
        attempt = [f"{UTILS}/runner/attempt.py", str(self.script), str(self.folder / self.name),
                   f"--nodes={self.nodes}", f"--first={request.first}", *self.limits,
                   *(["--keep_going"] if request.options.get("keep_going") == "true" else [])]
        return "\n".join([
            "#!/usr/bin/env bash",
            f"# {program()} wrote this and submitted it with",
            f"#   sbatch {' '.join(map(quote, [*self.arguments(), str(self.script)]))}",
            "# Given a number, it runs that job here; without, as Slurm calls it, it sees to time limits and requeues.",
            f"cd {quote(os.getcwd())} || exit",
            "if [ $# -eq 1 ]; then",
            f"    exec {' '.join(command)}",
            "fi",
            f"exec {' '.join(map(quote, attempt))}", ""])

    def queue(self, screen: Screen) -> SlurmQueue:
        """Submit, or find what an earlier call submitted that could not wait for it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = self.text()
        if self.number_file.exists() and self.number_file.read_text().strip().isdigit():
            earlier = SlurmQueue(int(self.number_file.read_text()), self.job_name)
            if earlier.alive():
                if self.script.read_text(errors="surrogateescape") == text:
                    screen.say(f"{now()} ({program()}) waiting for {self.job_name}, in the queue as {earlier.job}")
                    return earlier
                earlier.cancel()
        for job in self.jobs():
            job.attempts.unlink(missing_ok=True)
            job.slurm_output.unlink(missing_ok=True)
        Path(f"{self.folder / self.name}.failed").unlink(missing_ok=True)
        self.script.write_text(text, encoding="utf-8", errors="surrogateescape")
        try:
            queue = SlurmQueue(submit([*self.arguments(), str(self.script)]), self.job_name)
        except RuntimeError as error:
            fail(str(error))
        self.number_file.write_text(f"{queue.job}\n")
        return queue


def quote(word: str) -> str:
    """For bash, on one line: what a word holds must never look like a line of its own."""
    if re.search(r"[\x00-\x1f\x7f]", word):
        return "$'" + re.sub(r"[\x00-\x1f\x7f'\\]", lambda found: f"\\x{ord(found[0]):02x}", word) + "'"
    return shlex.quote(word) if word else ""
