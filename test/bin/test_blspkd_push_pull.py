"""`blspkd push` and `pull`, against a stand-in of the hub on this machine."""

import json
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from importlib import util
from pathlib import Path

import pytest

from blspkd import SpeechLLM
from blspkd.files import contents_digests

_SPEC = util.spec_from_file_location("hub_standin", Path(__file__).resolve().parents[1] / "hub_standin.py")
hub_standin = util.module_from_spec(_SPEC)
sys.modules["hub_standin"] = hub_standin
_SPEC.loader.exec_module(hub_standin)


@pytest.fixture
def hub():
    with hub_standin.serve() as running:
        yield running


def run_with(process, hub, home, *words, **variables):
    """Run `blspkd` with the stand-in as its hub."""
    done = process(*words, variables={**hub.environment(home), "HF_HUB_OFFLINE": "0", **variables})
    done.out, done.err = done.stdout.decode(), done.stderr.decode()
    return done


@pytest.fixture
def run(hub, process, tmp_path):
    return partial(run_with, process, hub, tmp_path / "home")


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    """A trained model in a folder of its own; its base models are folders elsewhere."""
    shutil.copytree(trained, tmp_path / "exp" / "train" / "model")
    return tmp_path / "exp" / "train" / "model"


@dataclass
class Pushed:
    """What one `blspkd push` did with a model that has results, and beside it a recording: its folder is gone."""

    hub: hub_standin.Hub
    said: str
    results: bytes
    before: dict
    after: dict


@pytest.fixture(scope="module")
def pushed(process, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pushed")
    model = Path(shutil.copytree(trained, folder / "exp" / "train" / "model"))
    (model / "secret.wav").write_bytes(b"RIFF")
    (model.parent / "results.json").write_text(
        '[{"system": "blspkd", "set": "test", "task": "repeat", "metric": "wer", "value": 1.25, "ci95": [1, 2], '
        '"n": 9, "seed": 0, "signature": "s"}]')
    before = contents_digests([model])
    with hub_standin.serve() as hub:
        done = run_with(process, hub, folder / "home", "push", model, "someone/listener", "--with_base_models",
                        "--private")
        assert done.returncode == 0, done.err
        results, after = (model.parent / "results.json").read_bytes(), contents_digests([model])
        shutil.rmtree(model.parent)
        yield Pushed(hub, done.out, results, before, after)


def test_a_base_model_that_others_do_not_have_is_refused(run, hub, copy, tiny_llm):
    done = run("push", copy, "someone/listener")
    assert done.returncode == 1 and f"its LLM is the folder {tiny_llm}, which others do not have" in done.err
    assert "--with_base_models" in done.err and not hub.requests


def test_a_dry_run_shows_what_would_be_pushed(run, hub, copy, trained):
    done = run("push", copy, "someone/listener", "--with_base_models", "--dry_run")
    assert done.returncode == 0, done.err
    lines = done.out.splitlines()
    size = (trained / "adapter.safetensors").stat().st_size
    assert any(line.split() == ["adapter.safetensors", f"{size:,}", "bytes"] for line in lines)
    assert any(line.startswith("base/llm/model.safetensors ") for line in lines)
    assert "library_name: blspkd" in done.out and "for someone/listener" in done.out
    assert not hub.requests


def test_what_was_pushed_is_pulled_and_works(process, pushed, recordings, tmp_path):
    hub, run = pushed.hub, partial(run_with, process, pushed.hub, tmp_path / "home")
    assert "downloaded again, found equal, and loaded" in pushed.said and hub.repositories["someone/listener"].private
    files = hub.files("someone/listener")
    assert {"README.md", "config.yaml", "base_models.json", "adapter.safetensors", "plora/adapter_model.safetensors",
            "base/llm/model.safetensors", "base/speech_encoder/model.safetensors"} <= files.keys()
    assert not any(b"/tmp/" in data for data in files.values())  # no path of this machine

    pulled = run("pull", "someone/listener", tmp_path / "pulled")
    assert pulled.returncode == 0, pulled.err
    there = {path.relative_to(tmp_path / "pulled").as_posix(): path.read_bytes()
             for path in (tmp_path / "pulled").rglob("*") if path.is_file()}
    assert there == {name: data for name, data in files.items() if name != ".gitattributes"}
    told = run("chat", "someone/listener", "--device", "cpu", "--max_new_tokens", "8", recordings[0])
    message = {"role": "user", "content": [{"type": "audio", "audio": recordings[0]}]}
    expected = SpeechLLM.from_pretrained(tmp_path / "pulled", device="cpu").chat([message], max_new_tokens=8).text
    assert (told.returncode, told.out) == (0, f"{expected}\n"), told.err
    again = run("pull", "someone/listener", tmp_path / "pulled")
    assert again.returncode == 1 and "is there already" in again.err


def test_a_model_on_base_models_of_the_hub_is_pushed_alone(run, hub, copy, tiny_llm, tiny_encoder, recordings):
    bases = {"llm": ("org/llm", tiny_llm), "speech_encoder": ("org/encoder", tiny_encoder)}
    records, config = {}, (copy / "config.yaml").read_text()
    for key, (name, folder) in bases.items():
        records[key] = {"id": name, "revision": hub.add(name, Path(folder))}
        config = config.replace(folder, name)
        hub.repositories[name].commits[records[key]["revision"]]["README.md"] = b"---\nlicense: mit\n---\n"
    (copy / "base_models.json").write_text(json.dumps(records))
    (copy / "config.yaml").write_text(config)
    done = run("push", copy, "someone/listener")
    assert done.returncode == 0, done.err
    files = hub.files("someone/listener")
    assert not any(name.startswith("base/") or b"/tmp/" in data for name, data in files.items())
    assert b"license: mit\nbase_model:\n- org/llm\n- org/encoder\n" in files["README.md"]
    about = run("info", "someone/listener", HF_HOME=str(copy.parent / "empty"))
    assert about.returncode == 0 and "org/llm: on the hub, to be downloaded" in about.out, about.err
    told = run("transcribe", "someone/listener", recordings[0], "--device", "cpu", "--max_new_tokens", "8")
    assert told.returncode == 0, told.err


def test_results_are_pushed_and_the_card_is_written_anew_from_them(pushed):
    files = pushed.hub.files("someone/listener")
    assert b"value: 1.25" in files["README.md"] and files["results.json"] == pushed.results


@pytest.mark.parametrize("name", ["old.bin", "plora/adapter.pt", "x.pkl"])
def test_pickles_are_refused(run, hub, copy, name, tmp_path):
    from blspkd.models.model_folder import copy_with_base_models

    copy_with_base_models(copy, tmp_path / "whole")
    (tmp_path / "whole" / name).write_bytes(b"\x80\x04.")
    done = run("push", tmp_path / "whole", "someone/listener")
    assert done.returncode == 1 and "can run code when it is loaded" in done.err and not hub.requests


def test_a_hub_that_refuses_is_one_message(run, hub, copy):
    done = run("push", copy, "someone/listener", "--with_base_models", HF_TOKEN="wrong")
    assert done.returncode == 1 and done.err.count("\n") == 1
    assert f"someone/listener: cannot be pushed to {hub.url}" in done.err and "log in" in done.err
    done = run("pull", "someone/nothing", copy.parent / "new")
    assert done.returncode == 1 and "someone/nothing: there is no such folder" in done.err
    assert not (copy.parent / "new").exists()


@pytest.mark.parametrize("name", ["adapter.safetensors", "base/llm/config.json", "README.md"])
def test_a_hub_that_keeps_something_else_is_noticed(run, hub, copy, name, monkeypatch):
    commit = hub_standin.Repository.commit

    def changed(repository, files, branch="main"):
        return commit(repository, files | ({name: files[name] + b" "} if name in files else {}), branch)

    monkeypatch.setattr(hub_standin.Repository, "commit", changed)
    done = run("push", copy, "someone/listener", "--with_base_models")
    assert (done.returncode, done.out) == (1, "")
    assert f"someone/listener: {name} is not there as it was pushed; push again" in done.err


def test_a_hub_that_loses_a_file_is_noticed(run, hub, copy, monkeypatch):
    commit = hub_standin.Repository.commit
    monkeypatch.setattr(hub_standin.Repository, "commit", lambda repository, files, branch="main": commit(
        repository, {name: data for name, data in files.items() if name != "config.yaml"}, branch))
    done = run("push", copy, "someone/listener", "--with_base_models")
    assert done.returncode == 1 and "config.yaml is not there as it was pushed" in done.err


def test_what_was_pushed_is_loaded_from_there(run, hub, copy):
    (copy / "adapter.safetensors").write_bytes((copy / "adapter.safetensors").read_bytes()[:-8])
    done = run("push", copy, "someone/listener", "--with_base_models")
    told = done.err.splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.err
    assert "someone/listener: was pushed, but cannot be loaded from there (the weights do not fit" in told


def test_files_that_are_no_part_of_a_model_stay_here(pushed):
    assert "secret.wav" not in pushed.hub.files("someone/listener") and pushed.after == pushed.before


def test_python_pushes_by_one_function(copy):
    from blspkd import push_to_hub

    shown = push_to_hub(copy, "someone/model", with_base_models=True, dry_run=True)
    assert "adapter.safetensors" in shown and "for someone/model" in shown
