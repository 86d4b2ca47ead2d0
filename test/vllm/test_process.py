"""vLLM's process: which interpreters will do, frames, and what is said when it fails or ends."""

import io
import socket
import threading
import time
import venv

import pytest

from blspkd.errors import ConfigError, ModelError
from blspkd.vllm import worker
from blspkd.vllm.process import VllmProcess, find_interpreter, vllm_version


@pytest.fixture
def bare(tmp_path) -> str:
    """An interpreter without any package."""
    venv.create(tmp_path / "bare", symlinks=True)
    return str(tmp_path / "bare" / "bin" / "python")


def test_frames_arrive_whole_or_not_at_all():
    ours, its = socket.socketpair()
    with ours, its:
        worker.write_frame(ours, {"generate": 1, "text": "ü"}, bytes(range(256)) * 100)
        worker.write_frame(ours, {"abort": [1]})
        ours.sendall(worker.SIZES.pack(9, 0) + b"{")
        ours.shutdown(socket.SHUT_WR)
        file = its.makefile("rb")
        frames = [worker.read_frame(file) for _ in range(3)]
    assert frames == [({"generate": 1, "text": "ü"}, bytes(range(256)) * 100), ({"abort": [1]}, b""), None]
    assert worker.read_frame(io.BytesIO()) is None


def test_closing_ends_the_process_and_wakes_who_waits_for_it(vllm_stand_in):
    process, errors = VllmProcess(vllm_stand_in), []

    def wait():
        try:
            process.told()
        except ModelError as error:
            errors.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.3)
    process.close()
    waiting.join(10)
    assert process.process.returncode is not None and len(errors) == 1 and "has ended" in errors[0]


def test_an_interpreter_is_asked_for_the_version_of_its_vllm(vllm_stand_in, bare):
    assert find_interpreter(vllm_stand_in, "--python") == vllm_stand_in
    assert vllm_version(vllm_stand_in, "--python") == "0.0.stand-in"
    for ask in find_interpreter, vllm_version:
        with pytest.raises(ConfigError, match=rf"^--python {bare}: has no vLLM; install it there"):
            ask(bare, "--python")


def test_a_vllm_that_cannot_be_imported_is_told_with_its_last_line(bare, tmp_path):
    [packages] = (tmp_path / "bare").glob("lib/*/site-packages")
    (packages / "vllm.py").write_text("import no_such_module")
    with pytest.raises(ConfigError, match=r"cannot be imported \(ModuleNotFoundError: .*no_such_module.*repair"):
        vllm_version(bare, "--python")


@pytest.mark.parametrize("behaviour, message", [
    ("unloadable", r"^vLLM has failed \(ValueError: no architecture of this kind\)$"),
    ("short", r"vLLM has failed \(ValueError: No available memory for the cache .*\); memory may have been short"),
    ("crashing", r"has ended with status 3; it printed last: .*a bad driver; start")])
def test_what_vllm_says_when_it_cannot_load_is_handed_on(vllm_stand_in, tiny_llm, monkeypatch, tmp_path, behaviour,
                                                         message):
    monkeypatch.setenv("STAND_IN", behaviour)
    with pytest.raises(ModelError, match=message):
        VllmProcess(vllm_stand_in).load(tmp_path, "float32")


def test_a_killed_worker_is_told_with_what_memory_it_may_lack(vllm_stand_in, tiny_llm):
    process = VllmProcess(vllm_stand_in)
    process.process.kill()
    with pytest.raises(ModelError, match="ended by signal SIGKILL; memory may have been short.*VLLM_CPU_KVCACHE_SPACE"):
        process.told()


def test_an_option_that_this_vllm_lacks_is_named(vllm_stand_in, tmp_path):
    with pytest.raises(ModelError, match=r"version 0\.0\.stand-in has no option no_such_option; install a newer one"):
        VllmProcess(vllm_stand_in).load(tmp_path, "float32", no_such_option=1)


def test_keys_of_ours_are_not_its(vllm_stand_in, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("STAND_IN", "telling")
    with pytest.raises(ModelError, match=r"OPENAI_API_KEY: None, CUDA_VISIBLE_DEVICES: 3"):
        VllmProcess(vllm_stand_in, {"CUDA_VISIBLE_DEVICES": "3"}).load(tmp_path, "float32")
