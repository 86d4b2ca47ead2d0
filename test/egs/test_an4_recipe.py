"""The AN4 recipe: its answers by rule, what it leaves out, and its whole path, on a made-up corpus in AN4's layout."""

import importlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blspkd.errors import DataError
from blspkd.kaldi.check import validate
from blspkd.kaldi.tables import read_table

REPOSITORY = Path(__file__).parents[2]
RECIPE = REPOSITORY / "egs" / "an4" / "blspkd1"
CORPUS = REPOSITORY.parent / "shared" / "data" / "an4"
TRAIN = {"fash": ["YES", "ENTER SEVENTY EIGHT", "K L M U FIVE"], "mjwl": ["J A N E", "RUBOUT X FOUR TWO"],
         "fkai": ["JUNE THIRD", "ONE OH SIX"]}
TEST = {"ffmm": ["YES", "J A N E", "THREE SIX", "ENTER NINE"]}
SMALL = ["--local_data_opts", "--num_valid_speakers 1 --num_spoken 30 --num_lm 300 --copies 2 "
         "--llm_args '--llm_steps 20 --learning_rate 3e-3 --eval_rows 20' "
         "--recogniser_args '--recogniser_steps 6 --eval_utterances 4'",
         "--train_args", "--max_steps 4 --save_steps 2 --warmup_steps 2 --batch_utterances 8",
         "--continuation_args", "--max_new_tokens 8", "--inference_args", "--max_new_tokens 8 --num_bootstrap 20"]


@pytest.fixture(scope="module")
def an4():
    """The recipe's modules by name: `an4("tasks")`; other recipes' modules of the same names do not get in the way."""
    names = {path.stem for path in (RECIPE / "local").glob("*.py")}
    before = {name: sys.modules.pop(name) for name in names & sys.modules.keys()}
    sys.path.insert(0, str(RECIPE / "local"))
    yield importlib.import_module
    sys.path.remove(str(RECIPE / "local"))
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def write_corpus(folder: Path) -> Path:
    """Tones in the place of speech, in the official layout."""
    (folder / "etc").mkdir(parents=True)
    number = 0
    for part, speakers in (("train", TRAIN), ("test", TEST)):
        files, lines = [], []
        for speaker, texts in speakers.items():
            for text in texts:
                number += 1
                name = f"an{number}-{speaker}-b"
                files.append(f"an4{'test' if part == 'test' else ''}_clstk/{speaker}/{name}")
                lines.append(f"<s> {text} </s> ({name})" if part == "train" else f"{text} ({name})")
                path = folder / "wav" / f"{files[-1]}.sph"
                path.parent.mkdir(parents=True, exist_ok=True)
                times = np.arange(6000 * len(text.split())) / 16000
                soundfile.write(path, 0.2 * np.sin(700 * number * times), 16000, format="NIST", subtype="PCM_16")
        (folder / f"etc/an4_{part}.fileids").write_text("".join(line + "\n" for line in files))
        (folder / f"etc/an4_{part}.transcription").write_text("".join(line + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def run(warm) -> Callable[..., subprocess.CompletedProcess]:
    """Run a program in a recipe's folder, with the warm Python."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "VENV": str(warm)}
    return lambda recipe, *words: subprocess.run([*map(str, words)], cwd=recipe, env=environment, text=True,
                                                 timeout=300, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def copy_recipe(folder: Path, corpus: Path) -> Path:
    shutil.copytree(RECIPE, folder, symlinks=False,
                    ignore=shutil.ignore_patterns("data", "exp", "__pycache__", "RESULTS.md"))
    for name in ("blspkd.sh", "utils", "path.sh", "base"):  # links, as in the repository
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.symlink_to((RECIPE / name).resolve())
    (folder / "db.sh").write_text(f"AN4={corpus}\n")
    return folder


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory) -> Path:
    """The recipe after stages 1 to 4, on next to nothing."""
    folder = tmp_path_factory.mktemp("an4")
    recipe = copy_recipe(folder / "blspkd1", write_corpus(folder / "corpus"))
    done = run(recipe, "./run.sh", *SMALL)
    assert done.returncode == 0, done.stdout[-5000:]
    return recipe


# --- the corpus's own files ---

@pytest.mark.parametrize(("change", "message"), [
    (lambda etc: (etc / "an4_train.fileids").write_text((etc / "an4_train.fileids").read_text() * 2),
     "stands there more than once"),
    (lambda etc: (etc / "an4_train.transcription").write_text((etc / "an4_train.transcription").read_text() * 2),
     r"transcription:8: \(an1-fash-b\) stands here a second time"),
    (lambda etc: (etc / "an4_train.transcription").write_bytes(b"<s> CAF\xc9 </s> (an1-fash-b)\n"),
     "transcription: byte 8 is not valid UTF-8"),
    (lambda etc: (etc / "an4_train.transcription").write_text("(an1-fash-b)\n"), "transcription:1: expected `WORDS"),
    (lambda etc: (etc / "an4_train.fileids").unlink(), "fileids: there is no such file"),
], ids=["fileid twice", "transcript twice", "Latin-1", "no words", "no fileids"])
def test_a_corpus_that_is_not_in_order_is_refused(an4, tmp_path, change, message):
    corpus = write_corpus(tmp_path)
    change(corpus / "etc")
    with pytest.raises(DataError, match=message):
        an4("an4_dirs").read_part(corpus, "train")


# --- answers by rule ---

@pytest.mark.parametrize(("text", "expected"), [
    ("enter seventy eight", "enter 78"), ("k l m u five two", "k l m u 5 2"), ("two ten", "2 10"),
    ("six thirty", "6 30"), ("one oh six", "1 0 6"), ("nineteen sixty five", "19 65"), ("fifty", "50"),
    ("a m s j seven thousand one hundred and eighty six", "a m s j 7186"), ("four thousand and six", "4006"),
    ("three hundred", "300"), ("five hundred four", "504"), ("fifty eight oh nine and a half", "58 0 9 and a half"),
    ("june twenty third", "june 23rd"), ("may ninth sixty two", "may 9th 62"), ("april thirtieth", "april 30th"),
    ("first second twelfth", "1st 2nd 12th"), ("twenty fifteenth", "20 15th"), ("yes", "yes")])
def test_numbers_as_digits(an4, text, expected):
    assert an4("tasks").answer("digits", text) == expected


def test_every_number_below_ten_thousand_comes_out(an4):
    lexicon, digits = an4("lexicon"), an4("tasks").digits
    names = {value: [name] for name, value in {**lexicon.ONES, **lexicon.TEENS, **lexicon.TENS}.items()}
    for tens, name in ((value, name) for name, value in lexicon.TENS.items()):
        names |= {tens + one: [name, word] for word, one in lexicon.ONES.items()}
    for number in range(1, 10000):
        thousands, hundreds, rest = number // 1000, number // 100 % 10, number % 100
        words = ((names[thousands] + ["thousand"] if thousands else [])
                 + (names[hundreds] + ["hundred"] if hundreds else []))
        words += (["and"] if words and rest else []) + (names[rest] if rest else [])
        assert digits(words) == str(number), words


@pytest.mark.parametrize(("task", "text", "expected"), [
    ("german", "rubout k seventy eight", "radiere k acht und siebzig"),
    ("german", "enter oh five", "eingabe null fünf"),
    ("german", "june twenty third", "juni dritter und zwanzig"), ("german", "o apostrophe h", "o apostroph h"),
    ("german", "sixty quux", "sechzig quux"), ("backwards", "k l five", "five l k"), ("letters", "k l m five", "3"),
    ("letters", "enter five", "0"), ("first", "k l", "k"), ("last", "k l", "l"), ("repeat", "k l", "k l")])
def test_answers(an4, task, text, expected):
    assert an4("tasks").answer(task, text) == expected


def test_continuations_are_no_answers_and_do_not_hold_the_sentence(an4):
    continuations, tasks = an4("continuations"), an4("tasks")
    grammar, rng = an4("grammar").Grammar(["yes", "k l m u five two"], set(), "test"), random.Random(0)
    openings = set()
    for _ in range(3000):
        text = grammar.draw()
        written = continuations.continue_text(text, rng)
        openings.add(written.split()[0])
        assert written not in {tasks.answer(task, text) for task in tasks.INSTRUCTIONS}
        if len(text.split()) > 1:
            assert f" {text} " not in f" {written} "
    assert openings == {"again", "after", "not", "then"}


def test_the_grammar_draws_nothing_forbidden_and_repeats_itself_by_seed(an4):
    grammar = an4("grammar").Grammar
    some = {grammar(["yes"], set(), "a").draw() for _ in range(1)}
    first, again = grammar(["yes", "k l"], {"k l"}, "a"), grammar(["yes", "k l"], {"k l"}, "a")
    drawn = [first.draw() for _ in range(4000)]
    assert drawn == [again.draw() for _ in range(4000)] and "k l" not in drawn and some
    assert max(len(text.split()) for text in drawn) < 24


# --- the corpus ---

def test_the_official_layout_becomes_data_directories(finished):
    data = finished / "data"
    assert {name: len(read_table(data / name / "text")) for name in ("people", "valid", "test", "synthetic")} == {
        "people": sum(map(len, TRAIN.values())) - len(read_table(data / "valid/text")) - left_out(finished),
        "valid": len(read_table(data / "valid/text")), "test": 4, "synthetic": 30}
    assert read_table(data / "test/text")["ffmm-an8-b"] == "yes"
    assert all(validate(data / name) == [] for name in ("people", "valid", "test"))
    assert all(validate(data / name, check_files=False) == []  # relative to the recipe
               for name in ("train", "synthetic", "spliced"))
    speakers = {name: set(read_table(data / name / "spk2utt")) for name in ("people", "valid", "test")}
    assert (not speakers["people"] & speakers["valid"]
            and not speakers["test"] & (speakers["people"] | speakers["valid"]))
    for name in "valid", "test":  # the answers to all tasks, so that one need not choose on the test set
        texts = read_table(data / name / "text")
        assert read_table(data / name / "text.last") == {utt_id: text.split()[-1] for utt_id, text in texts.items()}
        assert len(list((data / name).glob("text.*"))) == 6
    spliced = read_table(data / "spliced/text")
    assert spliced and not set(spliced.values()) & set(read_table(data / "people/text").values())
    assert len(read_table(data / "train/text")) == 2 * len(read_table(data / "people/text")) + len(spliced) + 30


def left_out(recipe: Path) -> int:
    held_out = set(read_table(recipe / "data/valid/spk2utt"))
    return sum("J A N E" in texts for speaker, texts in TRAIN.items() if speaker not in held_out)


def test_no_test_sentence_of_several_words_is_in_what_the_models_learn_from(finished):
    data = finished / "data"
    tested = {text for text in read_table(data / "test/text").values() if " " in text}
    rows = [json.loads(line) for line in (data / "local/lm/train.jsonl").read_text().splitlines()]
    assert len(rows) == 300 and not tested & {row[side] for row in rows for side in ("input", "output")}
    for name in ("people", "synthetic", "spliced", "train"):
        assert not tested & set(read_table(data / name / "text").values())
    continuations = read_table(data / "train/continuation").values()
    assert not tested & {json.loads(one) for one in continuations}


def test_words_are_spoken_in_another_spelling_and_timed_in_their_own(finished):
    texts, words = read_table(finished / "data/synthetic/text"), {}
    for line in (finished / "data/synthetic/word_times").read_text().splitlines():
        utt_id, _, _, text = line.split(" ", 3)
        words.setdefault(utt_id, []).append(text)
    assert {utt_id: " ".join(parts) for utt_id, parts in words.items()} == texts
    plans = [json.loads(line) for path in (finished / "data/local/wav").rglob("plan.jsonl")
             for line in path.read_text().splitlines()]
    assert any("," in plan["spoken"] for plan in plans) and not any("," in plan["text"] for plan in plans)


def test_the_whole_path_gives_every_row(run, finished):
    rows = json.loads((finished / "exp/train/results.json").read_text())
    found = {(row["system"], row["set"], row["task"], row["metric"]) for row in rows}
    for system in ("text", "chance", "blspkd"):
        assert {(system, "test", "repeat", "wer"), (system, "test", "instructions", "exact_match"),
                (system, "test", "backwards", "exact_match")} <= found
    assert ("blspkd", "test", "alignment", "count_accuracy") in found
    again = run(finished, "./run.sh", *SMALL)
    assert again.returncode == 0 and "nothing changed: skipped" in again.stdout, again.stdout[-3000:]


# --- errors ---

@pytest.mark.parametrize(("damage", "words"), [
    (lambda corpus: (corpus / "etc/an4_test.fileids").unlink(), ["an4_test.fileids", "AN4 in db.sh"]),
    (lambda corpus: (corpus / "wav/an4_clstk/fash/an1-fash-b.sph").unlink(), ["an1-fash-b.sph", "no such recording"]),
    (lambda corpus: (corpus / "etc/an4_train.transcription").write_text("YES (an1-fash-b)\n"), ["(an2-fash-b)"]),
    (lambda corpus: (corpus / "etc/an4_test.transcription").write_text("nonsense\n"), ["an4_test.transcription:1"]),
    (lambda corpus: (corpus / "etc/an4_train.fileids").write_text("an4_clstk/fash/an1-fash-b\n"),
     ["no line for an2-fash-b"]),
])
def test_a_damaged_corpus_is_named(run, warm, tmp_path, damage, words):
    corpus = write_corpus(tmp_path / "corpus")
    damage(corpus)
    done = run(RECIPE, warm / "bin/python", "local/an4_dirs.py", "--an4", corpus, "--output_dir", tmp_path / "data",
               "--num_valid_speakers", 1)
    assert done.returncode == 1 and all(word in done.stdout for word in words), done.stdout
    assert "Traceback" not in done.stdout


def test_a_corpus_that_is_not_there_is_an_error_that_says_what_to_do(run, tmp_path):
    done = run(RECIPE, "local/data.sh", "--an4", tmp_path / "nowhere", "--datadir", tmp_path / "data")
    assert done.returncode == 1 and "AN4 in db.sh" in done.stdout and not (tmp_path / "data").exists()


@pytest.mark.skipif(not CORPUS.is_dir(), reason="needs a part of AN4")
def test_real_recordings(run, tmp_path):
    done = run(RECIPE, sys.executable, "local/an4_dirs.py", "--an4", CORPUS, "--output_dir", tmp_path / "data")
    assert done.returncode == 0 and "test: 127 utterances of 10 speakers" in done.stdout, done.stdout
    assert all(validate(tmp_path / "data" / name) == [] for name in ("people", "valid", "test"))
