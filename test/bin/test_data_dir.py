"""The command line of the data-directory verbs: flags, messages and exit codes."""

import shutil
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile

from blspkd.bin.data_dir import main
from blspkd.kaldi.tables import read_table

IDS = ["ann-1", "ann-2", "bob-1", "bob-2", "bob-3", "cem-1"]


@pytest.fixture
def folder(tmp_path):
    """A valid data directory of six utterances."""
    made = tmp_path / "train"
    made.mkdir()
    for utt_id in IDS:
        soundfile.write(tmp_path / f"{utt_id}.wav", np.full(1600, 0.1), 16000)
    (made / "wav.scp").write_text("".join(f"{utt_id} {tmp_path}/{utt_id}.wav\n" for utt_id in IDS))
    (made / "text").write_text("".join(f"{utt_id} words\n" for utt_id in IDS))
    (made / "utt2spk").write_text("".join(f"{utt_id} {utt_id[:3]}\n" for utt_id in IDS))
    (made / "spk2utt").write_text("ann ann-1 ann-2\nbob bob-1 bob-2 bob-3\ncem cem-1\n")
    return made


def status(*arguments) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code or 0
    return 0


def test_validate_fix_validate(folder, capsys):
    assert status("validate", folder) == 0
    assert "in order" in capsys.readouterr().out
    (folder / "text").write_text("cem-1 words\nann-1 words\nann-2\n")
    assert status("validate", folder) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {folder}: ") and "text:2: ann-1 stands after cem-1" in said
    assert f"utils/fix_data_dir.sh {folder}" in said and "Traceback" not in said
    assert status("fix", folder) == 0
    assert "text: no value removed: line 3" in capsys.readouterr().out
    assert status("validate", folder) == 0
    assert status("fix", folder) == 0
    assert "nothing to fix" in capsys.readouterr().out
    assert list(read_table(folder / "wav.scp")) == ["ann-1", "cem-1"]


def test_validate_options(folder, tmp_path):
    (tmp_path / "ann-1.wav").unlink()
    assert status("validate", folder) == 1
    assert status("validate", "--check_files", "false", folder) == 0
    (folder / "text").unlink()
    assert status("validate", "--no-text", "--check-files", "false", folder) == 0
    (folder / "wav.scp").unlink()
    assert status("validate", "--no_text", folder) == 1
    assert status("validate", "--no-text", "--no-wav", folder) == 0
    assert status("validate", "--no-text", "--no-wav", "--no-feats", "--no-spk-sort", "--non-print", folder) == 0


@pytest.mark.parametrize(("options", "chosen"), [
    (["--first"], IDS[:3]), (["--last"], IDS[-3:]), ([], IDS[::2]), (["--per-spk"], IDS), (["--per_spk"], IDS)])
def test_subset_options(folder, tmp_path, options, chosen):
    assert status("subset", *options, folder, 3, tmp_path / "sub") == 0
    assert list(read_table(tmp_path / "sub" / "text")) == chosen
    assert status("validate", tmp_path / "sub") == 0


@pytest.mark.parametrize(("option", "wanted"), [("--utt-list", ["ann-2", "cem-1"]), ("--spk-list", ["bob-1", "bob-2",
                                                                                                   "bob-3"])])
def test_subset_lists(folder, tmp_path, option, wanted):
    (tmp_path / "list").write_text("ann-2\nbob\ncem-1\n")
    assert status("subset", option, tmp_path / "list", folder, tmp_path / "sub") == 0
    assert list(read_table(tmp_path / "sub" / "text")) == wanted


def test_split_and_combine(folder, tmp_path, capsys):
    assert status("split", folder, 3) == 0
    assert capsys.readouterr().out.split() == [f"{folder}/split3/{number}" for number in (1, 2, 3)]
    assert status("split", "--per-utt", folder, 6) == 0
    assert status("combine", tmp_path / "whole", *(f"{folder}/split6utt/{number}" for number in range(1, 7))) == 0
    assert (tmp_path / "whole" / "text").read_bytes() == (folder / "text").read_bytes()


def test_durations_stats_and_leaving_out_bad_audio(folder, tmp_path, capsys):
    assert status("durations", folder, "--nj", 2) == 0
    assert status("durations", folder, "--nj", 2) == 0
    assert "up to date" in capsys.readouterr().out
    assert status("stats", folder) == 0
    assert "utterances" in capsys.readouterr().out
    soundfile.write(tmp_path / "bob-2.wav", np.full((1600, 2), 0.1), 16000)
    (folder / "utt2dur").unlink()
    assert status("durations", folder) == 1
    said = capsys.readouterr().err
    assert "bob-2: " in said and "2 channels" in said
    assert status("fix", folder, "--remove", folder / ".bad_audio") == 0
    assert status("durations", folder) == 0
    assert list(read_table(folder / "utt2dur")) == [utt_id for utt_id in IDS if utt_id != "bob-2"]


def test_filter(folder, tmp_path, capsys):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "text").write_text("x-1 Other words!\nx-2 words\n")
    (folder / "text").write_text("".join(f"{utt_id} {'other words' if utt_id[0] == 'b' else 'w o r d s'}\n"
                                         for utt_id in IDS))
    assert status("filter", folder, tmp_path / "out", "--max-tokens-per-second", 51, "--silence_db", "-60",
                  "--test_dirs", tmp_path / "test", "--report", tmp_path / "report.json", "--nj", 2) == 0
    said = capsys.readouterr().out
    assert "3 of 6 utterances kept" in said and f"{tmp_path}/report.json" in said
    assert list(read_table(tmp_path / "out" / "text")) == ["ann-1", "ann-2", "cem-1"]
    assert status("validate", tmp_path / "out") == 0
    assert status("filter", folder, folder) == 1
    assert status("filter", folder, tmp_path / "out2", "--min_duration", "long") == 2
    assert status("filter", folder, tmp_path / "out2", "--min_duration", 5) == 1
    assert "no utterance is left" in capsys.readouterr().err and not (tmp_path / "out2").exists()


def test_filter_by_the_users_tables_and_the_control(folder, tmp_path, capsys):
    for name, values in (("utt2score", "124456"), ("utt2lang", "xxxxxy"), ("text.asr", ["words"] * 6),
                         ("utt2date", ["2019", "2019", "2019", "2019", "2018", "2019"])):
        (folder / name).write_text("".join(f"{utt_id} {value}\n" for utt_id, value in zip(IDS, values, strict=True)))
    options = ["--max-tokens-per-second", 51, "--score_above", 1, "--score-below", "5.5", "--languages", "x", "z",
               "--years", 2019, 2020, "--transcripts", "text.asr", "--near_duplicates", 1]
    assert status("filter", folder, tmp_path / "out", *options) == 0
    said = capsys.readouterr().out
    for line in ("another language 1 cem-1 (y)", "another year 1 bob-3 (2018)", "score 1 ann-1 (1)",
                 "near-duplicate 2 bob-1 (ann-2, 100%), bob-2 (ann-2, 100%)"):
        assert line in " ".join(said.split())
    assert list(read_table(tmp_path / "out" / "text")) == ["ann-2"]
    assert status("filter", folder, tmp_path / "lot", *options, "--random_seed", 1) == 0
    assert "at random instead of: 1 another language, 1 another year, 1 score, 2 near" in capsys.readouterr().out
    assert len(read_table(tmp_path / "lot" / "text")) == 1
    assert status("filter", folder, tmp_path / "out2", "--years", "last") == 1
    assert "years: ['last'] are not all years" in capsys.readouterr().err


def test_choose_channel_and_materialize(folder, tmp_path, capsys):
    assert status("choose_channel", folder, 0) == 0
    assert read_table(folder / "reco2channel") == dict.fromkeys(IDS, "0")
    (folder / "wav.scp").write_text("".join(f"{utt_id} cat {tmp_path}/{utt_id}.wav |\n" for utt_id in IDS))
    assert status("validate", folder) == 0
    assert status("durations", folder) == 1
    assert status("materialize", folder, tmp_path / "dump") == 1
    assert "--allow_pipes true" in capsys.readouterr().err
    assert status("materialize", folder, tmp_path / "dump", "--allow_pipes", "true", "--nj", 2) == 0
    assert status("durations", folder) == 0


@pytest.mark.parametrize("arguments", [
    [], ["validat", "DIR"], ["validate"], ["validate", "DIR", "--no-such-option"], ["validate", "DIR", "more"],
    ["validate", "DIR", "--check_files", "yes"], ["durations", "DIR", "--nj", "0"],
    ["durations", "DIR", "--nj", "many"], ["split", "DIR", "x"], ["split", "DIR", "0"],
    ["choose_channel", "DIR", "left"], ["validate", "DIR/nowhere"],
    ["subset", "--first", "DIR", "OUT"], ["subset", "--first", "--last", "DIR", "2", "OUT"],
    ["subset", "--first", "DIR", "99", "OUT"], ["subset", "--shortest", "DIR", "2", "OUT"],
    ["subset", "--utt-list", "OUT", "DIR", "OUT"], ["combine", "OUT"], ["combine", "OUT", "DIR", "DIR"],
    ["split", "DIR", "4"], ["stats", "DIR/nowhere"], ["durations", "DIR/nowhere"], ["fix", "DIR/nowhere"],
    ["materialize", "DIR", "OUT", "--allow_pipes", "maybe"], ["materialize", "DIR/nowhere", "OUT"]])
def test_mistakes_end_with_a_message_and_not_with_zero(folder, tmp_path, capsys, arguments):
    words = [word.replace("DIR", str(folder)).replace("OUT", str(tmp_path / "out")) for word in arguments]
    assert status(*words) in (1, 2)
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


MANY = 5000  # utterances


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A directory as those of a million utterances are, and the same in four parts."""
    folder = tmp_path_factory.mktemp("large") / "train"
    folder.mkdir()
    ids = [f"spk{number // 100:05d}-{number:06d}" for number in range(MANY)]
    values = {"wav.scp": "/data/corpora/some-corpus/audio/train/{0:.8}/{0}.flac", "utt2spk": "{0:.8}",
              "text": "about a dozen words that someone once said to somebody else in a room", "utt2dur": "1.2345"}
    for name, value in values.items():
        (folder / name).write_text("".join(f"{utt_id} {value.format(utt_id)}\n" for utt_id in ids))
    assert status("fix", "--check_files", "false", folder) == 0
    assert status("split", folder, 4) == 0
    return folder


@pytest.mark.parametrize("verb", ["subset", "split", "combine", "stats", "fix", "fix unsorted"])
def test_a_million_utterances_fit_into_700_mb(large, tmp_path, verb):
    """60 MB are there before the first utterance, so that 640 bytes are left for each."""
    words = {"subset": ["--first", large, MANY * 9 // 10, tmp_path / "part"], "split": [large, 32],
             "combine": [tmp_path / "all", *(large / "split4" / str(part) for part in range(1, 5))], "stats": [large]}
    if verb.startswith("fix"):
        shutil.copytree(large, tmp_path / "broken")
        if verb == "fix unsorted":
            lines = (large / "text").read_text().splitlines(keepends=True)
            (tmp_path / "broken" / "text").write_text("".join(lines[:9:-1]))
    tracemalloc.start()
    try:
        assert status(verb.split()[0], *words.get(verb, ["--check_files", "false", tmp_path / "broken"])) == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak / MANY < 640


def test_the_module_is_a_command(folder):
    done = subprocess.run([sys.executable, "-m", "blspkd.bin.data_dir", "validate", str(folder)], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0 and done.stdout == f"{folder}: in order\n"
