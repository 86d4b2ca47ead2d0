"""`blspkd chat` and `blspkd transcribe`: replies alone on stdout, one after another, whatever some files are."""

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blspkd.bin.blspkd import main

LENGTH = ("--max_new_tokens", "8", "--device", "cpu")


@pytest.fixture
def run(model, monkeypatch, capsys):
    """run(words) -> (exit status, stdout, stderr), with the model that is loaded already."""
    monkeypatch.setattr("blspkd.models.chat.SpeechLLM.from_pretrained", lambda *_, **__: model)

    def call(*words) -> tuple[int, str, str]:
        status = 0
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return call


def reply_to(model, *parts, **options) -> str:
    return model.chat([{"role": "user", "content": list(parts)}], max_new_tokens=8, **options).text


def text(value: str) -> dict:
    return {"type": "text", "text": value}


def sound(path: Path) -> dict:
    return {"type": "audio", "audio": path}


def test_a_recording_is_answered_as_by_the_model(run, model, trained, recordings):
    expected = reply_to(model, text("Go on:"), sound(recordings[0]))
    assert run("chat", trained, "-i", "Go on:", *LENGTH, recordings[0])[:2] == (0, f"{expected}\n")
    assert run("chat", trained, recordings[0], *LENGTH)[1] == f"{reply_to(model, sound(recordings[0]))}\n"


def test_recordings_and_texts_are_answered_one_after_another(run, model, trained, recordings):
    status, out, err = run("chat", trained, *recordings[:2], "--text", "a nurse", "-i", "Go on:", *LENGTH)
    expected = [reply_to(model, text("Go on:"), part) for part in (*map(sound, recordings[:2]), text("a nurse"))]
    assert (status, out) == (0, "".join(f"{reply}\n" for reply in expected))
    told = [line for line in err.splitlines() if line.endswith(":")]
    assert told == [f"{recordings[0]}:", f"{recordings[1]}:", "a nurse:"]


def test_a_short_reply_says_how_to_have_a_longer_one(run, trained):
    told = run("chat", trained, "--text", "a nurse", *LENGTH)[2]
    assert "(stopped after 8 tokens; --max_new_tokens allows more)" in told


def test_temperature_and_seed_decide_the_reply(run, trained):
    words = ("chat", trained, "--text", "a nurse", "--temperature", "1.5", "--top_p", "0.9", *LENGTH)
    assert run(*words, "--seed", "1")[1] == run(*words, "--seed", "1")[1] != run(*words, "--seed", "2")[1]


def test_a_system_message_is_said(run, model, trained):
    expected = model.chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a nurse"}],
                          max_new_tokens=8).text
    assert run("chat", trained, "--text", "a nurse", "--system", "Be brief.", *LENGTH)[1] == f"{expected}\n"


@pytest.fixture
def stdin(monkeypatch):
    """stdin(data): what standard input, which is no terminal, brings."""
    return lambda data: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_standard_input_may_bring_the_recording(run, model, trained, recordings, stdin):
    expected = reply_to(model, text("Go on:"), sound(recordings[1]))
    stdin(recordings[1].read_bytes())
    assert run("chat", trained, "-", "-i", "Go on:", *LENGTH)[:2] == (0, f"{expected}\n")
    stdin(recordings[1].read_bytes())
    assert run("transcribe", trained, "-", *LENGTH)[0] == 0
    for data, problem in ((b"", "-: nothing came from standard input"), (b"no audio", "-: is not audio")):
        stdin(data)
        status, out, err = run("chat", trained, "-", *LENGTH)
        assert (status, out) == (1, "") and err.startswith(f"error: {problem}")
    status, _, err = run("chat", trained, "-", "-")
    assert status == 1 and "can be read only once" in err


def test_without_a_terminal_something_has_to_be_named(run, trained, stdin):
    stdin(b"")
    status, _, err = run("chat", trained)
    assert status == 1 and "name a recording" in err


def test_a_conversation_may_come_from_a_pipe(run, model, trained, recordings, stdin):
    stdin(b"Go on:\nand then?\n")
    status, out, _ = run("chat", trained, recordings[0], "--interactive", *LENGTH)
    first = [{"role": "user", "content": [text("Go on:"), sound(recordings[0])]}]
    reply = model.chat(first, max_new_tokens=8).text
    second = [*first, {"role": "assistant", "content": reply}, {"role": "user", "content": "and then?"}]
    assert (status, out) == (0, f"{reply}\n{model.chat(second, max_new_tokens=8).text}\n")


def test_one_that_fails_stops_no_other(run, model, trained, recordings, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    status, out, err = run("chat", trained, tmp_path / "bad.wav", recordings[0], *LENGTH)
    assert (status, out) == (1, f"{reply_to(model, sound(recordings[0]))}\n")
    assert f"error: {tmp_path / 'bad.wav'}: is not audio" in err and "1 of 2 could not be answered" in err
    status, out, err = run("chat", trained, tmp_path / "bad.wav", *LENGTH)
    assert (status, out) == (1, "") and err.startswith(f"error: {tmp_path / 'bad.wav'}: is not audio")


def test_a_file_that_is_not_there_is_told_before_anything(run, trained, recordings):
    status, out, err = run("chat", trained, recordings[0], "nowhere.wav")
    assert (status, out, err) == (1, "", "error: nowhere.wav: there is no such file\n")


def test_long_recordings_are_answered_in_pieces(run, model, trained, tmp_path):
    noise = np.random.default_rng(0).standard_normal(16000 * 5) * 0.1
    soundfile.write(tmp_path / "long.wav", noise, 16000)
    status, out, _ = run("chat", trained, tmp_path / "long.wav", "-i", "Go on:", "--chunk", "2", *LENGTH)
    expected = list(model.chat_in_chunks(tmp_path / "long.wav", "Go on:", chunk=2.0, max_new_tokens=8))
    assert len(expected) >= 3 and (status, out) == (0, " ".join(filter(None, expected)) + "\n")


def test_one_channel_of_several_is_chosen(run, model, trained, recordings, tmp_path):
    samples, rate = soundfile.read(recordings[0])
    soundfile.write(tmp_path / "stereo.wav", np.stack([samples * 0.3, samples], axis=1), rate, subtype="DOUBLE")
    status, _, err = run("chat", trained, tmp_path / "stereo.wav", *LENGTH)
    assert status == 1 and "channel" in err
    assert run("chat", trained, tmp_path / "stereo.wav", "--channel", "1", *LENGTH)[0] == 0


def test_control_characters_of_a_reply_do_not_reach_a_terminal(monkeypatch, capsys):
    from blspkd.serve.replies import say

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    say("red\x1b[31m\x07 and\ttab\n")
    assert capsys.readouterr().out == "red[31m and\ttab\n"


def test_control_characters_of_words_names_and_errors_do_not_reach_a_terminal(run, model, trained, recordings, tmp_path,
                                                                              monkeypatch):
    evil = tmp_path / "evil\x1b[2J\x07.wav"
    evil.write_bytes(recordings[0].read_bytes())
    monkeypatch.setattr(model, "transcribe", lambda *_, **__: "words \x1b]0;title\x07")
    several = ("transcribe", trained, evil, "none\x1b[2J.wav", *LENGTH)
    alone = ("chat", trained, "none\x1b[2J.wav", *LENGTH)
    assert run(*several)[1] == f"{evil}\twords \x1b]0;title\x07\n"  # in a file they stay
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    for status, out, err in (run(*several), run("transcribe", trained, evil, *LENGTH), run(*alone)):
        written = out + err.replace("\x1b[A", "")  # the bar's own
        assert ("]0;title" in out or status) and not set("\x1b\x07") & set(written)


def test_what_is_told_on_a_terminal_has_no_control_characters(monkeypatch, capsys):
    from blspkd.serve.replies import tell

    tell("to a file: \x1b[2J")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    tell("\x1b[2J")
    assert capsys.readouterr().err == "to a file: \x1b[2J\n[2J\n"


def test_where_a_mistake_stands_in_the_messages_is_not_told():
    from blspkd.errors import MessageError
    from blspkd.serve.replies import told

    for place in ("messages[8]", "messages[8].content", "messages[8].content[0]", "messages[8].content[0].text"):
        assert told(MessageError(f"{place}: is empty")) == "is empty"
        assert told(MessageError(f"{place}: is empty"), "a.wav") == "a.wav: is empty"


def test_the_words_of_one_recording_are_printed_alone(run, model, trained, recordings):
    expected = " ".join(model.transcribe(recordings[0], max_new_tokens=8).split())
    assert run("transcribe", trained, recordings[0], *LENGTH)[:2] == (0, f"{expected}\n")


def test_the_words_of_several_stand_behind_their_names(run, model, trained, recordings):
    texts = {path: " ".join(model.transcribe(path, max_new_tokens=8).split()) for path in recordings}
    status, out, err = run("transcribe", trained, *recordings, *LENGTH)
    assert (status, out) == (0, "".join(f"{path}\t{words}\n" for path, words in texts.items()))
    assert "3/3" in err
    rows = [json.loads(line) for line in run("transcribe", trained, *recordings, "--json", *LENGTH)[1].splitlines()]
    assert rows == [{"file": str(path), "text": words} for path, words in texts.items()]


def test_words_may_be_written_into_files(run, model, trained, recordings, tmp_path):
    status, out, _ = run("transcribe", trained, *recordings, "--output", tmp_path / "out", *LENGTH)
    assert (status, out) == (0, "")
    written = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert written == {f"{path.stem}.txt": " ".join(model.transcribe(path, max_new_tokens=8).split()) + "\n"
                       for path in recordings}


def test_a_folder_that_cannot_be_made_is_told_before_the_model_is_loaded(run, trained, recordings, monkeypatch):
    monkeypatch.setattr("blspkd.models.chat.SpeechLLM.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    for place in ("/proc/nope", recordings[0], recordings[0] / "x"):
        status, out, err = run("transcribe", trained, recordings[1], "--output", place)
        assert (status, out) == (1, "") and err.startswith(f"error: {place}: ") and err.count("\n") == 1


def test_two_files_of_one_name_are_refused_before_the_work(run, trained, recordings, tmp_path):
    status, _, err = run("transcribe", trained, recordings[0], tmp_path / "one.flac", "--output", tmp_path / "out")
    assert status == 1 and "would both be written as one" in err and not (tmp_path / "out").exists()


def test_recordings_that_fail_are_counted_and_the_others_done(run, trained, recordings, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    status, out, err = run("transcribe", trained, tmp_path / "bad.wav", recordings[0], tmp_path / "none.wav", *LENGTH)
    assert status == 1 and [line.partition("\t")[0] for line in out.splitlines()] == [str(recordings[0])]
    assert "none.wav: there is no such file" in err and "2 of 3 files could not be transcribed" in err


@pytest.fixture
def microphone(tmp_path, monkeypatch):
    """A program that records noise."""
    program = tmp_path / "arecord"
    program.write_text("#!/bin/sh\nexec cat /dev/urandom\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def test_the_microphone_is_listened_to(run, trained, microphone):
    status, out, err = run("chat", trained, "--mic", "0.7", *LENGTH)
    assert status == 0 and out.strip() and "(recording 0.7 s)" in err
    status, _, err = run("chat", trained, "--mic", "-1")
    assert status == 1 and "-1 s cannot be" in err


def test_the_microphone_needs_an_end_and_a_program(run, trained, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    status, _, err = run("chat", trained, "--mic")
    assert status == 1 and "nobody can press Enter" in err
    monkeypatch.setenv("PATH", str(tmp_path))
    status, out, err = run("chat", trained, "--mic", "1")
    assert (status, out) == (1, "") and err.startswith("error: microphone: there is no program that records")


def test_a_file_that_cannot_be_attached_stops_no_other(model, recordings, tmp_path, monkeypatch, capsys):
    from blspkd.serve.terminal import TerminalChat

    soundfile.write(tmp_path / "stereo.wav", np.random.default_rng(0).uniform(-0.1, 0.1, (8000, 2)), 16000)
    names = ["none.wav", tmp_path / "stereo.wav", recordings[0], "http://a.example/b.wav", "-", tmp_path, recordings[2]]
    lines = iter([f"/audio {' '.join(map(str, names))}", "/quit"])
    monkeypatch.setattr("blspkd.serve.terminal._ask", lambda prompt: next(lines))
    talk = TerminalChat(model)
    talk.run()
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert [part["audio"] for part in talk.attached] == [recordings[0], recordings[2]]
    problems = ["no such file; relative paths count", "has 2 channels", "is a URL", "standard input", "not a regular"]
    assert [problem in line for problem, line in zip(problems, errors, strict=True)] == [True] * 5
    assert not any("wav.scp" in line or "utils/" in line for line in errors)


def test_a_conversation_may_hold_what_the_microphone_heard(trained, model, microphone, monkeypatch, capsys):
    from blspkd.serve.terminal import TerminalChat

    lines = iter(["/mic 0.5", "", "/mic soon", "/mic 9999", "/audio", "/audio 'x", "/quit"])
    monkeypatch.setattr("blspkd.serve.terminal._ask", lambda prompt: next(lines))
    talk = TerminalChat(model, max_new_tokens=8)
    talk.run()
    printed = capsys.readouterr()
    assert printed.out == reply_to(model, talk.messages[0]["content"][0]) + "\n"
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert ["soon" in errors[0], "9999 s cannot be" in errors[1], "name a recording" in errors[2],
            "quotes in pairs" in errors[3]] == [True] * 4
