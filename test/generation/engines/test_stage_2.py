"""Stage 2's commands with each engine: the same continuations, the engine in the fingerprint, nothing lost or told."""

import json
from pathlib import Path

import pytest

from blspkd.bin import generate_continuations, merge_continuations
from blspkd.generation.engines import server as server_module

WORDS = "the farmer sold six bags and a nurse saw two red cats in the old park on monday".split()
OPTIONS = ["--max_new_tokens", "3", "--do_sample", "false", "--part_size", "5", "--batch_size", "2", "--instruction",
           "Continue:"]
KEY = "sk-0123456789"


@pytest.fixture
def make_set(tmp_path):
    def make(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        texts = {f"spk-utt{i:03d}": " ".join(WORDS[i % 7:i % 7 + 3 + i % 5]) for i in range(23)}
        (folder / "text").write_text("".join(f"{utt_id} {text}\n" for utt_id, text in texts.items()))
        (folder / "utt2spk").write_text("".join(f"{utt_id} spk\n" for utt_id in texts))
        return folder

    return make


@pytest.fixture
def run(tiny_llm, capsys):
    """Write the continuations of a set; the status and all that was printed."""

    def write(folder: Path, *words: str, merge: bool = True) -> tuple[int, str]:
        calls = [(generate_continuations, ["--llm", tiny_llm, "--data_dir", str(folder), *OPTIONS, *words])]
        calls += [(merge_continuations, ["--data_dir", str(folder), "--max_bad_ratio", "1"])] * merge
        status = 0
        for module, arguments in calls:
            try:
                module.main(arguments)
            except SystemExit as end:
                status = status or end.code
        return status, "".join(capsys.readouterr())

    return write


@pytest.fixture
def openai(server, monkeypatch) -> list[str]:
    monkeypatch.setenv("SOME_KEY", KEY)
    monkeypatch.setattr(server_module, "FIRST_WAIT", 0.001)
    return ["--engine", "openai", "--engine_options", json.dumps({"url": server.url, "api_key_variable": "SOME_KEY"})]


def info_of(folder: Path) -> dict:
    return json.loads((folder / "continuation.info.json").read_text())


def test_what_transformers_writes_is_recorded_as_before_there_were_engines(make_set, run):
    folder = make_set("train")
    assert run(folder)[0] == 0
    info = info_of(folder)
    assert info["generation"] == {
        "max_new_tokens": 3, "do_sample": False, "temperature": 1.0, "top_p": 1.0, "batch_size": 2, "part_size": 5,
        "seed": 0, "dtype": "float32", "max_input_tokens": 512, "min_tokens": 1, "drop_unfinished": False}
    assert info["versions"].keys() == {"blspkd", "torch", "transformers", "tokenizers", "device"}
    assert "up to date" in run(folder, "--engine", "huggingface")[1]


@pytest.mark.parametrize("engine", ["vllm", "openai"])
def test_all_engines_write_the_same_continuations(make_set, run, vllm_stand_in, openai, engine, server):
    words = openai if engine == "openai" else ["--engine", "vllm", "--engine_options.python", vllm_stand_in]
    expected, found = make_set("huggingface"), make_set(engine)
    assert run(expected)[0] == 0
    assert run(found, *words)[0] == 0
    assert (found / "continuation").read_bytes() == (expected / "continuation").read_bytes()
    info, usual = info_of(found), info_of(expected)
    assert info["generation"]["engine"] == {
        "vllm": {"name": "vllm", "version": "0.0.stand-in"},
        "openai": {"name": "openai", "version": "1.2.3", "model": "tiny", "owned_by": "us",
                   "system_fingerprint": "abc", "ids": "token_ids"}}[engine]
    assert info["fingerprint"] != usual["fingerprint"] and info["counts"] == usual["counts"]
    assert info["versions"][{"openai": "server"}.get(engine, engine)] == info["generation"]["engine"]["version"]
    assert "up to date" in run(found, *words)[1]
    server.version = "1.2.4"
    status, printed = run(found, *words, merge=False)
    assert status == 0 and ("up to date" in printed) == (engine == "vllm")
    assert "up to date" not in run(found, merge=False)[1]  # transformers again


def test_the_configuration_can_name_the_engine(make_set, run, server, tmp_path):
    (tmp_path / "continuation.yaml").write_text(f"engine: openai\nengine_options:\n  url: {server.url}/v1/\n")
    folder = make_set("train")
    assert run(folder, "--config", str(tmp_path / "continuation.yaml"))[0] == 0
    assert info_of(folder)["generation"]["engine"]["name"] == "openai"


def test_no_key_and_no_address_stand_in_any_file(make_set, run, openai, server):
    folder = make_set("train")
    assert run(folder, *openai, merge=False)[0] == 0
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 4 and all(KEY not in path.read_text() and server.url not in path.read_text() for path in files)
    assert all(headers["Authorization"] == f"Bearer {KEY}" for _, headers, _ in server.seen)


def test_a_server_that_fails_under_way_costs_one_part_at_most(make_set, run, openai, server, monkeypatch):
    whole, broken = make_set("whole"), make_set("broken")
    assert run(whole, *openai)[0] == 0
    generate, asked = server.generate, []

    def fail_later(prompt, body):
        asked.append(prompt)
        if len(asked) > 16:
            server.always = 500
        return generate(prompt, body)

    monkeypatch.setattr(server, "generate", fail_later)
    status, printed = run(broken, *openai, "--engine_options.retries", "1", merge=False)
    assert status == 1 and "HTTP 500" in printed and printed.count("error: ") == 1
    monkeypatch.setattr(server, "generate", generate)
    server.always = None
    before = len(server.seen)
    status, printed = run(broken, *openai)
    assert status == 0 and "complete" in printed
    assert 0 < len(server.seen) - before - 4 <= 23 - 10
    for name in "continuation", "continuation.info.json":
        assert (broken / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("words, message", [
    (["--engine", "vlm"], "engine: there is no 'vlm'; did you mean 'vllm'?"),
    (["--engine_options", "{url"], "--engine_options: '{url' is not valid YAML"),
    (["--engine", "openai", "--engine_options.url", "http://user:password@host"], "engine_options.url: http://host: l"),
    (["--engine", "openai", "--engine_options.url", "http://host", "--dtype", "float16"], "dtype: float16: engine ope"),
])
def test_mistakes_are_one_message_before_anything_is_read(make_set, run, words, message):
    folder = make_set("train")
    (folder / "text").unlink()
    status, printed = run(folder, *words, merge=False)
    assert status == 1 and printed.startswith("error: ") and message in printed and "password" not in printed
