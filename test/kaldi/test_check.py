"""`validate` finds everything that is wrong in one go, and nothing where nothing is."""

import pytest

from blspkd.errors import DataError
from blspkd.kaldi.check import SHOWN, report, validate

IDS = ["ann-1", "ann-2", "bob-1", "bob-2", "bob-3", "cem-1"]
TEXT = [f"{utt_id} words" for utt_id in IDS]
UTT2SPK = [f"{utt_id} {utt_id[:3]}" for utt_id in IDS]


def test_a_directory_in_order_has_no_problems(make_dir, make_rich_dir):
    assert validate(make_dir()) == []
    assert validate(make_rich_dir()) == []


def test_commands_are_no_problem_before_they_are_run(make_dir):
    assert validate(make_dir(wav__scp=[f"{utt_id} cat {utt_id}.wav |" for utt_id in IDS])) == []


BAD = {
    "duplicate id": ({"text": [*TEXT, "cem-1 again"]}, ("text", "duplicate id", "text:7: cem-1")),
    "duplicate in utt2spk": ({"utt2spk": [*UTT2SPK, "cem-1 cem"]}, ("utt2spk", "duplicate id", "utt2spk:7: cem-1")),
    "duplicate recording": ({"wav__scp": ["ann-1 /dev/null", "ann-1 x"]}, ("wav.scp", "duplicate id", "wav.scp:2")),
    "not sorted": ({"text": TEXT[::-1]}, ("text", "not sorted", "text:2: bob-3 stands after cem-1")),
    "text without audio": ({"wav__scp": []}, ("wav.scp", "no audio: not in wav.scp", "ann-1")),
    "audio without text": ({"text": TEXT[1:]}, ("text", "no transcript: not in text", "ann-1")),
    "text of nobody": ({"text": [*TEXT, "dan-1 x"]}, ("text", "not in utt2spk", "text:7: dan-1")),
    "translation of nobody": ({"text__de": ["dan-1 x"]}, ("text.de", "not in utt2spk", "text.de:1: dan-1")),
    "instruction of nobody": ({"instruction": ["dan-1 x"]}, ("instruction", "not in utt2spk", "instruction:1: dan-1")),
    "empty transcript": ({"text": ["ann-1", *TEXT[1:]]}, ("text", "no value", "text:1: ann-1: nothing")),
    "blank transcript": ({"text": ["ann-1 \t ", *TEXT[1:]]}, ("text", "no value", "text:1: ann-1: nothing")),
    "blank line": ({"text": ["", *TEXT]}, ("text", "blank line", "text:1")),
    "carriage returns": ({"text": "\r\n".join(TEXT)}, ("text", "carriage return", "text:1")),
    "byte order mark": ({"text": ["\ufeff" + TEXT[0], *TEXT[1:]]}, ("text", "byte order mark", "text:1")),
    "latin 1": ({"text": b"ann-1 caf\xe9\n"}, ("text", "invalid UTF-8", "text:1: byte 10")),
    "UTF-16": ({"text": "ann-1 x\n".encode("utf-16")}, ("text", "invalid UTF-8", "text:1")),
    "control character": ({"text": ["ann-1 \x07", *TEXT[1:]]}, ("text", "control character", "ann-1")),
    "path in an id": ({"text": ["../../etc/x y"]}, ("text", "bad id", "'../../etc/x'")),
    "shell in an id": ({"wav__scp": ["$(reboot) y"]}, ("wav.scp", "bad id", "must not contain '$'")),
    "no utt2spk": ({"utt2spk": None}, ("utt2spk", "missing file", "utt2spk")),
    "no spk2utt": ({"spk2utt": None}, ("spk2utt", "missing file", "spk2utt")),
    "no text": ({"text": None}, ("text", "missing file", "text")),
    "no wav.scp": ({"wav__scp": None}, ("wav.scp", "missing file", "wav.scp")),
    "empty utt2spk": ({"utt2spk": ""}, ("utt2spk", "no utterance", "holds none")),
    "two speakers": ({"utt2spk": ["ann-1 a b", *UTT2SPK[1:]]},
                     ("utt2spk", "more than an id and a speaker", "'ann-1 a b'")),
    "spk2utt of another": ({"spk2utt": ["ann ann-1 bob-1"]}, ("spk2utt", "contradicts utt2spk", "bob-1 is ann's here")),
    "spk2utt too short": ({"spk2utt": ["ann ann-1"]}, ("spk2utt", "lacks utterances of utt2spk", "ann-2")),
    "spk2utt too long": ({"spk2utt": ["ann ann-1 ann-9"]}, ("spk2utt", "not in utt2spk", "ann-9")),
    "spk2utt twice": ({"spk2utt": ["ann ann-1 ann-1"]}, ("spk2utt", "duplicate id", "ann-1")),
    "missing audio": ({"wav__scp": ["ann-1 no.wav"]}, ("wav.scp", "missing audio file", "wav.scp:1: ann-1: there is")),
    "missing archive": ({"wav__scp": ["ann-1 no.ark:99"]}, ("wav.scp", "missing audio file", "no file: no.ark")),
    "audio is a folder": ({"wav__scp": ["ann-1 /"]}, ("wav.scp", "not an audio file", "ann-1: / is not a regular")),
    "segment of nothing": ({"segments": ["ann-1 rec 0 1"]}, ("segments", "no audio: not in wav.scp", "recording rec")),
    "segment backwards": ({"segments": ["ann-1 ann-1 2 1"]}, ("segments", "bad value", "from 2 s to 1 s")),
    "negative segment": ({"segments": ["ann-1 ann-1 -2 1"]}, ("segments", "bad value", "from -2 s")),
    "segment of words": ({"segments": ["ann-1 ann-1 a b"]}, ("segments", "bad value", "ann-1")),
    "missing segments": ({"segments": ["ann-1 ann-1 0 1"]}, ("segments", "no audio: not in segments", "ann-2")),
    "bad duration": ({"utt2dur": ["ann-1 -3"]}, ("utt2dur", "bad value", "utt2dur:1: ann-1")),
    "bad channel": ({"reco2channel": ["ann-1 left"]}, ("reco2channel", "bad value", "'left'")),
    "bad continuation": ({"continuation": ["ann-1 words"]}, ("continuation", "bad value", "continuation:1: ann-1")),
}


@pytest.mark.parametrize("kind", BAD)
def test_each_kind_is_found(make_dir, kind):
    files, (file, name, example) = BAD[kind]
    problems = validate(make_dir(**files))
    found = [problem for problem in problems if (problem.file, problem.kind) == (file, name)]
    assert found, problems
    assert example in found[0].examples[0]
    assert found[0].count >= 1


def test_empty_audio_files_are_found(make_dir, tmp_path):
    (tmp_path / "empty.wav").touch()
    folder = make_dir(wav__scp=[f"{utt_id} {tmp_path}/empty.wav" for utt_id in IDS])
    assert [(problem.kind, problem.count) for problem in validate(folder)] == [("empty audio file", 6)]
    assert validate(folder, check_files=False) == []


def test_all_problems_come_at_once_with_counts_and_at_most_ten_examples(make_dir):
    many = [f"zoe-{number:03d} word" for number in range(100)]
    folder = make_dir(text=[*TEXT[1:], *many], wav__scp=None, spk2utt=["ann ann-2 ann-1 x"])
    problems = validate(folder)
    counts = {(problem.file, problem.kind): problem.count for problem in problems}
    assert counts[("text", "not in utt2spk")] == 100 and counts[("text", "no transcript: not in text")] == 1
    assert ("wav.scp", "missing file") in counts and ("spk2utt", "not in utt2spk") in counts
    assert max(len(problem.examples) for problem in problems) == SHOWN
    text = report(folder, problems)
    assert "... and 90 more" in text and f"utils/fix_data_dir.sh {folder}" in text


def test_text_and_audio_are_not_asked_for_where_they_are_not_needed(make_dir):
    assert validate(make_dir(text=None, wav__scp=None), need_text=False, need_audio=False) == []


def test_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such data directory"):
        validate(tmp_path / "nowhere")


@pytest.mark.parametrize("entry", ["|", "| cat", "-", "  |"])
def test_an_entry_that_is_neither_file_nor_command(make_dir, entry):
    folder = make_dir()
    first, rest = (folder / "wav.scp").read_text().split("\n", 1)
    (folder / "wav.scp").write_text(f"ann-1 {entry}\n{rest}")
    [problem] = validate(folder)
    assert problem.kind == "bad value" and "ann-1" in problem.examples[0]


def test_a_folder_in_the_place_of_a_file(make_dir):
    folder = make_dir()
    (folder / "segments").mkdir()
    assert [(problem.file, problem.kind) for problem in validate(folder)] == [("segments", "not a file")]


def test_several_lines_of_an_utterance_are_right_where_words_have_times(make_dir):
    folder = make_dir(word_times=["ann-1 0 1 some", "ann-1 1 2 words"])
    assert validate(folder) == []


@pytest.mark.parametrize("times", ["0 1_0", "0 \u0661", "0 ten"])
def test_numbers_are_those_of_every_tool(make_rich_dir, times):
    folder = make_rich_dir(segments=[f"ann-1 rec1 {times}"])
    assert ("segments", "bad value") in {(problem.file, problem.kind) for problem in validate(folder)}


def test_ids_with_blanks_are_told_as_such(make_dir):
    ids = [f"track {number}" for number in (1, 2)]
    folder = make_dir(utt2spk=[f"{utt_id} {utt_id}" for utt_id in ids])
    [problem] = [problem for problem in validate(folder) if problem.kind == "more than an id and a speaker"]
    assert problem.examples == [
        f"utt2spk:{number}: 'track {number} track {number}': ids hold no blanks; replace those of file names, e.g. by -"
        for number in (1, 2)]
