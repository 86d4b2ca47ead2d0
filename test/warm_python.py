"""A `python` that starts in milliseconds: it has imported torch and transformers already.

Tests that run commands as a user does, in processes of their own, would spend most of their time on imports, 4 s each.
Here a server imports what is heavy once, and forks for every program; nothing of the package's commands or of a
recipe's scripts is imported before.

    with serve(folder) as venv:
        subprocess.run([venv / "bin/python", "-m", "blspkd.bin.train", ...])

`bin/python` is a small client. It hands its arguments, environment, working directory and standard streams to the
server, passes signals on, and ends as the program ends; when the client is killed, the program is. So the program is a
process of its own with its own environment, streams and exit status, but it is no child of the client, and it has the
server's limits (`ulimit`). Where that matters, and where imports are tested, tests use `sys.executable`.

With COLD=<folder> in the environment, the first start of every module and script is one of the real Python.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.abc import InspectLoader
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What reads no HF_* variable when it is imported, for programs with another hub or cache than ours; and the rest.
FIRST = ("torch", "torch._dynamo", "torch.distributed.tensor", "torch.distributed.checkpoint", "torch.export",
         "torch.distributed.launcher.api", "sympy", "numpy", "soundfile", "soxr", "yaml", "regex", "tokenizers",
         "safetensors.torch", "jinja2", "tqdm", "psutil")
THEN = ("transformers.trainer", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama",
        "transformers.models.whisper.modeling_whisper", "transformers.models.whisper.processing_whisper", "peft",
        "accelerate", "blspkd.training.phases", "blspkd.training.phase", "blspkd.evaluation.alignment",
        "blspkd.evaluation.cascade", "blspkd.evaluation.recogniser", "blspkd.generation.continuation",
        "blspkd.models.chat")
READ_ON_IMPORT = ("HF_", "HUGGING", "TRANSFORMERS_")
NOT_READ = "HF_HUB_DISABLE_PROGRESS_BARS"
CLIENT = """#!{python} -IS
import json, os, select, signal, socket, struct, sys

words = sys.argv[1 + (sys.argv[1:2] == ["-u"]):]


def real():
    os.execv({python!r}, [{python!r}, *words])


def first_start(folder):
    try:
        os.close(os.open(os.path.join(folder, words[words[0] == "-m"].replace("/", "%")), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


if not words or not (words[0] in ("-m", "-c") or os.path.isfile(words[0])):
    real()
if os.environ.get("OMP_NUM_THREADS") != "1":  # the server has one thread
    real()
if "COLD" in os.environ and words[0] != "-c" and first_start(os.environ["COLD"]):
    real()
try:
    for number in range(3):
        os.fstat(number)
except OSError:  # a standard stream is closed
    real()
read_on_import = {{name: value for name, value in os.environ.items() if name.startswith({prefixes!r})}}
read_on_import.pop({not_read!r}, None)
server = socket.socket(socket.AF_UNIX)
server.connect({folder!r} + ("/all" if read_on_import == {variables!r} else "/first"))
environment = {{**os.environ, "PYTHON_EXEC": sys.argv[0]}}  # by which torchrun starts its processes
request = json.dumps([words, environment, os.getcwd()]).encode()
socket.send_fds(server, [struct.pack("I", len(request))], [0, 1, 2])
server.sendall(request)
server.setblocking(False)
signal.set_wakeup_fd(server.fileno())  # sends the number at once: a handler has to wait where one comes before a call
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, lambda number, _: None)
select.select([server], [], [])
answer = server.recv(4)
if len(answer) != 4:
    sys.exit("the server of test/warm_python.py has ended")
status = struct.unpack("i", answer)[0]
if status < 0:
    if status != -signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


@contextmanager
def serve(first: tuple[str, ...] = FIRST, then: tuple[str, ...] = THEN) -> Iterator[Path]:
    """A folder with `bin/python`, as a recipe's $VENV; the modules are imported while others wait for it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    variables = {name: value for name, value in environment.items()
                 if name.startswith(READ_ON_IMPORT) and name != NOT_READ}
    with (tempfile.TemporaryDirectory(prefix="blspkd-") as folder, socket.socket(socket.AF_UNIX) as ready_first,
          socket.socket(socket.AF_UNIX) as ready_all):
        for listener, name in ((ready_first, "first"), (ready_all, "all")):
            listener.bind(f"{folder}/{name}")
            listener.listen(64)
        client = Path(folder) / "bin" / "python"
        client.parent.mkdir()
        client.write_text(CLIENT.format(python=sys.executable, folder=folder, prefixes=READ_ON_IMPORT,
                                        not_read=NOT_READ, variables=variables))
        client.chmod(0o755)
        client.with_name("python3").write_text(f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n")  # the real one
        client.with_name("python3").chmod(0o755)
        server = subprocess.Popen(
            [sys.executable, __file__, str(ready_first.fileno()), str(ready_all.fileno()), *first, "--", *then],
            stdin=subprocess.PIPE, env=environment, pass_fds=(ready_first.fileno(), ready_all.fileno()),
            start_new_session=True)
        try:
            yield Path(folder)
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.communicate()


def main(ready_first: int, ready_all: int, first: list[str], then: list[str]) -> None:
    """Serve on two listening sockets until standard input is closed: the one who started this has ended."""
    listeners = [socket.socket(fileno=ready_first), socket.socket(fileno=ready_all)]
    _import(first)
    if os.fork():
        _accept(listeners[0], listeners)
        os.wait()
    else:
        _import(then)
        _accept(listeners[1], listeners)


def _import(modules: list[str]) -> None:
    for name in modules:
        with suppress(ImportError):  # a program that needs it says so
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that the forks share its pages


def _accept(listener: socket.socket, listeners: list[socket.socket]) -> None:
    while True:
        ready, _, _ = select.select([0, listener], [], [])
        if 0 in ready:
            return
        connection, _ = listener.accept()
        child = os.fork()
        if not child:
            if os.fork():  # twice, so that nobody has to wait for it
                os._exit(0)
            for other in listeners:
                other.close()
            try:
                _supervise(connection)
            finally:
                os._exit(1)
        connection.close()
        os.waitpid(child, 0)


def _supervise(connection: socket.socket) -> None:
    """Run what a client asks for, pass its signals on, and tell it the exit status."""
    head, streams, _, _ = socket.recv_fds(connection, 4, 3)
    length, request = struct.unpack("I", head)[0], b""
    while len(request) < length:
        request += connection.recv(length - len(request))
    program = os.fork()
    if not program:
        connection.close()
        try:
            _run(*json.loads(request), streams)
        finally:
            os._exit(1)
    for stream in streams:
        os.close(stream)

    def pass_on() -> None:
        while number := connection.recv(1):
            os.kill(program, number[0])
        with suppress(ProcessLookupError):  # it may have ended by itself
            os.kill(program, signal.SIGKILL)  # the client has been killed

    threading.Thread(target=pass_on, daemon=True).start()
    status = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    try:
        connection.sendall(struct.pack("i", status))
    except BrokenPipeError:
        pass


def _run(words: list[str], environment: dict[str, str], folder: str, streams: list[int]) -> None:
    """As `python WORDS` would; it does not return."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.__stderr__ = open(2, "w", 1, "utf-8", "backslashreplace", closefd=False)
    sys.path.remove(str(ROOT))
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    status = 0
    try:
        _start(words)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # as Python waits for threads, and then for what was registered
    importlib.import_module("atexit")._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = status or 120
    os._exit(status & 0xFF)


class _Words(InspectLoader):
    """Loads the program that stands behind -c."""

    def __init__(self, program: str):
        self.program = program

    def get_source(self, fullname: str) -> str:
        return self.program


def _start(words: list[str]) -> None:
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        sys.path.insert(0, "")
        sys.modules["__main__"] = types.ModuleType("__main__")
        _Words(words[1]).exec_module(sys.modules["__main__"])
    else:
        sys.argv = words
        sys.path.insert(0, os.path.dirname(os.path.realpath(words[0])))
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))
    split = sys.argv.index("--")
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:split], sys.argv[split + 1:])
