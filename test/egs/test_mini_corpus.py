"""The embedded recipe's corpus: sentences, German, questions, continuations, voices and synthesis."""

import filecmp
import hashlib
import importlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
LOCAL, BASE = REPO / "egs/mini/blspkd1/local", REPO / "egs/mini/blspkd1/base"
SETS = ("train=train/training valid=valid/training test_heard=test/training test_unheard=test/held_out "
        "test_hard=test/hard")
SIZES = ["--base_models", "false", "--num_train", "30", "--num_valid", "8", "--num_test", "12", "--num_lm", "200"]


@pytest.fixture(scope="module")
def mini():
    """The recipe's modules by name: `mini("grammar")`."""
    sys.path[:0] = [str(LOCAL), str(BASE)]
    yield importlib.import_module
    sys.path.remove(str(LOCAL))
    sys.path.remove(str(BASE))


@pytest.fixture(scope="module")
def sentences(mini):
    grammar = mini("grammar").Grammar(0)
    return [grammar.draw() for _ in range(20000)]


def environment() -> dict[str, str]:
    return {**os.environ, "VENV": sys.prefix, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe folder after `local/data.sh` with a tiny corpus, without base models."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "local").symlink_to(LOCAL)
    (folder / "base").symlink_to(BASE)
    for name in ("path.sh", "utils"):
        (folder / name).symlink_to(REPO / "egs/TEMPLATE/blspkd1" / name)
    subprocess.run(["local/data.sh", *SIZES], cwd=folder, env=environment(), check=True)
    return folder


def table(path: Path) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in path.read_text(encoding="utf-8").splitlines())


# --- sentences ---

def test_a_seed_decides_the_sentences(mini):
    grammar = mini("grammar").Grammar
    first, again, other = grammar(1), grammar(1), grammar(2)
    texts = [first.draw().text for _ in range(50)]
    assert texts == [again.draw().text for _ in range(50)]
    assert texts != [other.draw().text for _ in range(50)]


def test_sentences_are_short_plain_text(sentences):
    assert all(re.fullmatch("[a-z]+( [a-z]+){4,14}", sentence.text) for sentence in sentences)


def test_the_vocabulary_is_small_and_used_completely(mini, sentences):
    lexicon = mini("lexicon")
    words = {word for sentence in sentences for word in sentence.text.split()}
    assert len(words) == 239
    nouns = {thing.english for thing in lexicon.THINGS} | {thing.plural for thing in lexicon.THINGS}
    assert nouns <= words


def test_preferences_are_skewed(sentences):
    """The commonest verb of a person is much more likely than one in 24."""
    verbs = [sentence.verb.english for sentence in sentences if sentence.person.english == "anna"]
    assert max(map(verbs.count, set(verbs))) / len(verbs) > 0.2


def test_a_text_has_one_meaning(sentences, mini):
    """Equal texts have equal translations and equal answers."""
    translate, questions = mini("german").translate, mini("questions").questions
    meanings = {}
    for sentence in sentences:
        assert meanings.setdefault(sentence.text, (translate(sentence), questions(sentence))) == (
            translate(sentence), questions(sentence))


def test_references_change_no_sentence(mini):
    """The digests are those of the time when only the test set had references."""
    digests = {"train": "57abf1a956c56188", "valid": "66d2e330be1e3c69", "test": "28ef0ba4c01b14ff"}
    for name, digest in digests.items():
        stream = f"spoken {name} 0"
        rows = list(mini("corpus").spoken_rows(mini("grammar").Grammar(stream), mini("corpus").SPOKEN_SPLITS[name], 100,
                                               random.Random(stream)))
        kept = [{"text": row["text"]} for row in rows] if name == "valid" else rows
        assert hashlib.sha256(json.dumps(kept, ensure_ascii=False).encode()).hexdigest()[:16] == digest, name
        for row in rows if name == "valid" else ():
            questions = mini("questions").questions(parse(mini, row["text"]))
            assert (row["instruction"], row["qa"]) in [(one.text, one.answer) for one in questions]
            assert row["translate"] == mini("german").translate(parse(mini, row["text"]))


# --- splits ---

def test_splits_have_their_shares(mini, sentences):
    splits = [mini("grammar").split_of(sentence.text) for sentence in sentences]
    assert 0.87 < splits.count("train") / len(splits) < 0.93
    assert splits.count("dev") > 500
    assert splits.count("test") > 500


def test_no_dev_or_test_sentence_occurs_in_training_text(mini, sentences):
    corpus, split_of, translate = mini("corpus"), mini("grammar").split_of, mini("german").translate
    rows = corpus.lm_rows(mini("grammar").Grammar("lm"), "train", 20000, random.Random(0))
    training = [text for row in rows for text in (row["input"], row["output"], row["instruction"])]
    held_out = [sentence for sentence in sentences if split_of(sentence.text) != "train"]
    forbidden = {text for sentence in held_out for text in (sentence.text, translate(sentence))}
    shortest = min(len(text.split()) for text in forbidden)
    for text in training:
        words = text.split()
        spans = (" ".join(words[start:end]) for start in range(len(words))
                 for end in range(start + shortest, len(words) + 1))
        assert not forbidden.intersection(spans), text


def test_reordering_a_sentence_keeps_its_split(mini):
    split_of = mini("grammar").split_of
    deeds = {f"{name} sold six red bags" for name in ("anna", "peter", "the old teacher", "the king", "simon", "nina")}
    for deed in deeds:
        assert len({split_of(deed), split_of(f"on monday {deed} in the park"), split_of(f"behind the zoo {deed}"),
                    split_of(f"{deed} in front of the church in the evening")}) == 1


# --- German ---

GERMAN = {
    "anna sold six red bags": "anna verkaufte sechs rote taschen",
    "anna sold six red bags in the park on monday": "anna verkaufte am montag sechs rote taschen im park",
    "on monday anna sold six red bags in the park": "am montag verkaufte anna sechs rote taschen im park",
    "in the park anna sold six red bags on monday": "im park verkaufte anna am montag sechs rote taschen",
    "the tired farmer found a big black hat": "der müde bauer fand einen großen schwarzen hut",
    "the tired farmer found the big black hat": "der müde bauer fand den großen schwarzen hut",
    "the happy girl lost an old book": "das glückliche mädchen verlor ein altes buch",
    "the happy girl lost the old book": "das glückliche mädchen verlor das alte buch",
    "the angry queen broke the expensive lamp": "die wütende königin zerbrach die teure lampe",
    "peter hid a pink knife behind the school": "peter versteckte ein rosa messer hinter der schule",
    "yesterday the doctor forgot the pink umbrella": "gestern vergaß die ärztin den rosa regenschirm",
    "last night the thief stole twenty golden rings in front of the castle":
        "letzte nacht stahl der dieb zwanzig goldene ringe vor dem schloss",
    "behind the bakery the poor boy threw an ugly apple last summer":
        "hinter der bäckerei warf der arme junge letzten sommer einen hässlichen apfel",
    "next to the library the judge counted three keys": "neben der bibliothek zählte die richterin drei schlüssel",
    "the brave pilot repaired two empty boats this morning":
        "der mutige pilot reparierte heute morgen zwei leere boote",
    "in the evening julia packed a heavy suitcase in the kitchen":
        "am abend packte julia einen schweren koffer in der küche",
    "the famous uncle carried seven apples next to the barn at noon":
        "der berühmte onkel trug am mittag sieben äpfel neben der scheune",
}


def parse(mini, text: str):
    """The sentence of the grammar whose text is `text`, found slot by slot."""
    grammar, lexicon = mini("grammar"), mini("lexicon")

    def alternatives(words):
        return "|".join(sorted(map(re.escape, words), key=len, reverse=True))

    places = {place.english: place for by_preposition in lexicon.PLACES.values() for place in by_preposition.values()}
    tables = {"person": {p.english: p for p in lexicon.PERSONS + lexicon.NAMES},
              "character": {a.english: a for a in lexicon.CHARACTERS}, "verb": {v.english: v for v in lexicon.VERBS},
              "quality": {a.english: a for a in lexicon.QUALITIES}, "colour": {a.english: a for a in lexicon.COLOURS},
              "thing": {noun: t for t in lexicon.THINGS for noun in (t.english, t.plural)},
              "place": places, "time": {time.english: time for time in lexicon.TIMES}}
    slot = {name: f"(?P<{name}>{alternatives(words)})" for name, words in tables.items()}
    determiner = f"(?P<determiner>a|an|the|{alternatives(lexicon.NUMBERS)})"
    deed = (f"(?:the )?(?:{slot['character']} )?{slot['person']} {slot['verb']} {determiner} "
            f"(?:{slot['quality']} )?(?:{slot['colour']} )?{slot['thing']}")
    for order in ("SPT", "STP", "TSP", "PST"):
        parts = {"S": deed, "P": slot["place"], "T": slot["time"]}
        for letters in {order, order.replace("P", ""), order.replace("T", ""), "S"}:
            match = re.fullmatch(" ".join(parts[letter] for letter in letters), text)
            if match:
                found = {name: tables[name].get(match.groupdict().get(name)) for name in tables}
                adjectives = tuple(a for a in (found["quality"], found["colour"]) if a)
                kind = "a" if match["determiner"] == "an" else match["determiner"]
                return grammar.Sentence(found["person"], found["character"], found["verb"], kind, adjectives,
                                        found["thing"], found["place"], found["time"], order)
    raise ValueError(f"'{text}' is not a sentence of the grammar")


@pytest.mark.parametrize("english", GERMAN)
def test_german(mini, english):
    sentence = parse(mini, english)
    assert sentence.text == english
    assert mini("german").translate(sentence) == GERMAN[english]


# --- questions and continuations ---

def test_answers_are_spans_of_the_sentence(mini, sentences):
    for sentence in sentences[:5000]:
        for question in mini("questions").questions(sentence):
            assert f" {question.answer} " in f" {sentence.text} "


def test_initials(mini, sentences):
    initials = mini("corpus").initials
    assert initials("the old man sold a bag") == "the t old o man m sold s a a bag b"
    pattern = re.compile("([a-z])[a-z]* \\1( ([a-z])[a-z]* \\3)+")
    assert all(pattern.fullmatch(initials(sentence.text)) for sentence in sentences[:500])


def test_no_continuation_resembles_initials(mini, sentences):
    """The speech is trained on continuations alone; in them no letter stands alone but the article."""
    rng = random.Random(0)
    for sentence in sentences[:5000]:
        words = mini("continuations").continue_sentence(sentence, rng).split()
        assert all(len(word) > 1 or word == "a" for word in words)


def test_questions_of_a_known_sentence(mini):
    sentence = parse(mini, "on monday the poor teacher sold six old bags in the park")
    answers = {question.text: question.answer for question in mini("questions").questions(sentence)}
    assert answers == {
        "Who sold the bags?": "the poor teacher", "Who was it?": "the poor teacher",
        "What did the teacher sell?": "six old bags", "What did she sell?": "six old bags",
        "Where did the teacher sell the bags?": "in the park", "Where was that?": "in the park",
        "When did the teacher sell the bags?": "on monday", "When was that?": "on monday",
        "How many bags did the teacher sell?": "six", "How many were there?": "six"}


def test_continuations_take_up_every_slot(mini):
    """Between them, the continuations of a sentence name its person, number, adjectives, things, place and time."""
    sentence = parse(mini, "the poor teacher sold six old red bags behind the church on monday")
    rng = random.Random(0)
    drawn = [mini("continuations").continue_sentence(sentence, rng) for _ in range(1000)]
    for words in ("poor teacher", "she sold", "six old red bags", "behind the church", "on monday"):
        assert sum(words in text for text in drawn) > 100, words
    assert len(set(drawn)) >= 9
    assert sum(text.endswith("because she sold the six old red bags behind the church on monday")
               for text in drawn) > 150


def test_continuations_exist_for_all_words(mini, sentences):
    rng = random.Random(0)
    for sentence in sentences:
        assert re.fullmatch("[a-z]+( [a-z]+)+", mini("continuations").continue_sentence(sentence, rng))


# --- voices ---

def test_voices_exist_and_sets_are_disjoint(mini):
    voices, espeak = mini("voices"), mini("espeak")
    named = {name: voices.voices_of(name, espeak.data_path()) for name in voices.GROUPS}
    assert [len(named[name]) for name in ("training", "held_out", "hard")] == [49, 8, 2]
    variants = [name.split(":")[1] for name in voices.TRAINING + voices.HELD_OUT + voices.HARD]
    assert len(set(variants)) == 59


def test_an_unknown_voice_is_an_error(mini, monkeypatch):
    voices, espeak = mini("voices"), mini("espeak")
    for wrong in ("us:nosuch", "xx:m1"):
        monkeypatch.setitem(voices.GROUPS, "hard", [wrong])
        with pytest.raises(mini("blspkd.errors").ConfigError, match=wrong):
            voices.voices_of("hard", espeak.data_path())


# --- synthesis and data directories ---

def synthesis(recipe: Path, wav_dir: Path, *options: str) -> list[str]:
    return [sys.executable, str(BASE / "synthesise.py"), "--sets", SETS,
            "--spoken_dir", str(recipe / "data/local/spoken"), "--wav_dir", str(wav_dir), *options]


def same_files(left: Path, right: Path) -> bool:
    names = sorted(path.relative_to(left) for path in left.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(right) for path in right.rglob("*") if path.is_file())
    return bool(names) and all(filecmp.cmp(left / name, right / name, shallow=False) for name in names)


def test_speech_is_reproducible_in_other_processes(recipe, tmp_path):
    subprocess.run(synthesis(recipe, tmp_path / "wav", "--nj", "1"), env=environment(), check=True)
    assert same_files(recipe / "data/local/wav", tmp_path / "wav")


def test_a_killed_synthesis_goes_on(recipe, tmp_path):
    wav_dir = tmp_path / "wav"
    victim = subprocess.Popen(synthesis(recipe, wav_dir, "--shard", "train/000"), env=environment())
    while not list(wav_dir.glob("*/*.tmp-*/*.wav")) and victim.poll() is None:
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert victim.returncode == -signal.SIGKILL
    assert not (wav_dir / "train/000").exists()
    subprocess.run(synthesis(recipe, wav_dir), env=environment(), check=True)
    assert same_files(recipe / "data/local/wav", wav_dir)


def test_a_second_run_is_quick_and_changes_nothing(recipe):
    def state():
        return {path: path.stat().st_mtime_ns for path in (recipe / "data/local").rglob("*") if path.is_file()}

    def processor_seconds():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before, start = state(), processor_seconds()
    subprocess.run(["local/data.sh", *SIZES], cwd=recipe, env=environment(), check=True)
    assert processor_seconds() - start < 2
    assert state() == before


def test_audio_is_short_loud_enough_and_not_clipped(recipe):
    import numpy as np
    import soundfile

    durations = table(recipe / "data/train/utt2dur")
    for utterance, path in table(recipe / "data/train/wav.scp").items():
        samples, rate = soundfile.read(recipe / path)
        assert (rate, samples.ndim) == (16000, 1)
        assert abs(len(samples) / rate - float(durations[utterance])) < 1e-4
        assert 0.8 < float(durations[utterance]) < 8
        assert 0.15 < np.abs(samples).max() < 0.985


def test_data_directories_are_well_formed(recipe):
    sizes = {"train": 30, "valid": 8, "test_heard": 12, "test_unheard": 12, "test_hard": 12}
    for name, size in sizes.items():
        folder = recipe / "data" / name
        tables = ["wav.scp", "text", "utt2spk", "utt2dur"]
        references = ["text.translate", "text.qa", "text.initials", "instruction"]
        assert all((folder / other).exists() == (name != "train") for other in references)
        tables += references if name != "train" else []
        keys = list(table(folder / "text"))
        assert keys == sorted(keys, key=str.encode)
        assert len(keys) == size
        assert all(list(table(folder / other)) == keys for other in tables)
        speakers = table(folder / "utt2spk")
        assert all(key.startswith(f"{speaker}-") for key, speaker in speakers.items())
        assert list(speakers.values()) == sorted(speakers.values(), key=str.encode)
        gathered = {key: speaker for speaker, keys in table(folder / "spk2utt").items() for key in keys.split()}
        assert gathered == speakers


def test_test_sets_speak_the_same_sentences_with_other_voices(recipe):
    sentences, speakers = {}, {}
    for name in ("test_heard", "test_unheard", "test_hard"):
        rows = table(recipe / "data" / name / "text")
        sentences[name] = [rows[key] for key in sorted(rows, key=lambda key: key.rsplit("-", 1)[1])]
        speakers[name] = set(table(recipe / "data" / name / "utt2spk").values())
    assert sentences["test_heard"] == sentences["test_unheard"] == sentences["test_hard"]
    assert not speakers["test_heard"] & speakers["test_unheard"]
    assert not speakers["test_hard"] & (speakers["test_heard"] | speakers["test_unheard"])


def test_word_times_cover_the_transcript_in_order(recipe):
    texts = table(recipe / "data/valid/text")
    durations = table(recipe / "data/valid/utt2dur")
    words, previous_end = {key: [] for key in texts}, {}
    for line in (recipe / "data/valid/word_times").read_text(encoding="utf-8").splitlines():
        key, start, end, text = line.split(" ", 3)
        assert previous_end.get(key, float(start)) == float(start)
        assert 0 < float(start) < float(end) <= float(durations[key])
        previous_end[key] = float(end)
        words[key].append(text)
    assert {key: " ".join(parts) for key, parts in words.items()} == texts


def test_llm_rows_have_the_agreed_shares_and_instructions(recipe, mini):
    corpus = mini("corpus")
    rows = list(corpus.lm_rows(mini("grammar").Grammar(0), "train", 5000, random.Random(0)))
    for task, share in corpus.TASK_SHARES.items():
        assert abs(sum(row["task"] == task for row in rows) / len(rows) - share) < 0.03
    assert corpus.INSTRUCTIONS["continue"] == "Continue the following text."
    written = [json.loads(line) for line in (recipe / "data/local/lm/train.jsonl").read_text().splitlines()]
    assert len(written) == 200
    assert set(written[0]) == {"task", "instruction", "input", "output"}


def test_data_sh_names_an_unknown_option(recipe):
    done = subprocess.run(["local/data.sh", "--nosuch", "1"], cwd=recipe, env=environment(), capture_output=True,
                          text=True, check=False)
    assert done.returncode == 1
    assert "--nosuch" in done.stderr
    assert "--num_train" in done.stderr
