"""`blspkd`: help, options, exit statuses, the server's settings. What the sub-commands do is tested beside this."""

import dataclasses
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from blspkd.bin.blspkd import SERVER_OPTIONS, main
from blspkd.serve.settings import Settings

COMMANDS = ["chat", "transcribe", "serve", "info", "push", "pull", "features"]
ROOT = Path(__file__).resolve().parents[2]


def status_of(*words) -> int:
    """The exit status of the command in this process."""
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        return 0 if end.code is None else end.code
    return 0


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_comes_within_a_second_and_without_torch(words):
    code = (f"import sys; sys.argv = ['blspkd', *{words}]\nfrom blspkd.bin.blspkd import main\n"
            "heavy = {'torch', 'transformers', 'numpy', 'fastapi'}\n"
            "try: main()\nfinally: print(*heavy & set(sys.modules), file=sys.stderr)")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "") and done.stdout.startswith("usage: blspkd")
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1


def test_the_first_help_names_every_command(capsys):
    assert status_of("--help") == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^    (\w+)(?:  |$)", printed, re.MULTILINE) == COMMANDS


@pytest.mark.parametrize("words", [[], ["sing", "m"], ["chat"], ["chat", "m", "--nonsense"], ["transcribe", "m"],
                                   ["chat", "m", "a.wav", "--temperature", "hot"], ["info", "m", "b"],
                                   ["features", "m", "data", "out", "--what", "everything"]], ids=" ".join)
def test_options_that_cannot_be_end_with_status_2(words, capsys):
    assert status_of(*words) == 2
    assert "usage: blspkd" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "options"), [
    ("features", "--batch_size --batch_seconds"), ("transcribe", "--max_new_tokens --chunk --channel"),
    ("chat", "--max_new_tokens --chunk --channel --temperature --top_p")])
def test_numbers_that_cannot_be_end_with_status_2(command, options, capsys):
    impossible = {"--temperature": ["nan", "inf", "-1"], "--top_p": ["nan", "0", "1.5"], "--channel": ["-1", "1.5"],
                  "--chunk": ["nan", "inf", "-1", "0.5"], "--batch_seconds": ["nan", "0", "-1"],
                  "--batch_size": ["0", "-1", "1.5"], "--max_new_tokens": ["0", "-1", "many"]}
    for option in options.split():
        for value in impossible[option]:
            assert status_of(command, "m", "a", *["b"] * (command == "features"), f"{option}={value}") == 2
            assert f"argument {option}: " in capsys.readouterr().err


@pytest.mark.parametrize("words", [["chat", "nowhere", "--text", "hello"], ["info", "nowhere"],
                                   ["push", "nowhere", "me/it"], ["features", "nowhere", "data", "out"]], ids=" ".join)
def test_a_model_that_is_not_there_is_one_message_and_status_1(words, capsys):
    assert status_of(*words) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: nowhere: there is no such folder") and printed.err.count("\n") == 1
    assert printed.out == ""


def test_every_setting_of_the_server_is_an_option():
    assert {field.name for field in dataclasses.fields(Settings)} == {*SERVER_OPTIONS, "api_key"}


def test_a_server_without_its_packages_names_the_command_that_installs_them(trained, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "blspkd.serve.server", raising=False)
    monkeypatch.delattr("blspkd.serve.server", raising=False)  # where an earlier test has imported it
    assert status_of("serve", trained) == 1
    assert "pip install 'blspkd[serve]'" in capsys.readouterr().err


def test_a_server_for_other_machines_needs_a_key(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("BLSPKD_API_KEY", raising=False)
    assert status_of("serve", trained, "--host", "0.0.0.0") == 1
    assert "needs a key" in capsys.readouterr().err
    (tmp_path / "empty").touch()
    for path, problem in ((tmp_path / "empty", "is empty"), (tmp_path / "none", "cannot be read")):
        assert status_of("serve", trained, "--host", "0.0.0.0", "--api_key_file", path) == 1
        assert problem in capsys.readouterr().err


def test_the_servers_options_reach_it(trained, tmp_path, monkeypatch, capsys):
    """The model is loaded when the server asks for it: the address is told before."""
    from blspkd.serve import server

    served = []
    monkeypatch.setattr(server, "serve", lambda load, settings, *opened: served.append((load, settings, opened)))
    (tmp_path / "key").write_text("secret\n")
    assert status_of("serve", trained, "--host", "0.0.0.0", "--api_key_file", tmp_path / "key", "--port", "0",
                     "--max_batch", "3", "--allowed_hosts", "a.example", "--allowed_hosts", "b.example",
                     "--device", "cpu", "--dtype", "bfloat16") == 0
    [(load, settings, _)] = served
    assert (settings.host, settings.port, settings.api_key, settings.max_batch) == ("0.0.0.0", 0, "secret", 3)
    assert settings.allowed_hosts == ("a.example", "b.example")
    assert str(load().listener.model.causal_lm.dtype) == "torch.bfloat16"


def test_a_closed_standard_output_is_one_message(trained):
    words = [sys.executable, "-m", "blspkd.bin.blspkd", "info", str(trained)]
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *words], stderr=subprocess.PIPE, cwd=ROOT, text=True,
                          check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: standard output is closed")
    assert done.stderr.count("\n") == 1


def test_a_closed_standard_input_brings_nothing(trained):
    for words, problem in ((["chat", trained], "name a recording"), (["chat", trained, "-"], "nothing came")):
        done = subprocess.run(["sh", "-c", '"$@" <&-', "sh", sys.executable, "-m", "blspkd.bin.blspkd", *words],
                              capture_output=True, cwd=ROOT, text=True, check=False)
        assert done.returncode == 1 and problem in done.stderr and done.stderr.count("\n") == 1


def test_a_reader_that_has_gone_ends_it_quietly(trained):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "blspkd.bin.blspkd", "info", str(trained)], stdout=write,
                          stderr=subprocess.PIPE, cwd=ROOT, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
