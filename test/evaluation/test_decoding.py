"""Decoding with a stand-in for the model: what is written, what is skipped, and what a kill costs."""

import dataclasses
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from blspkd.errors import AudioError, ConfigError, DataError, ModelError
from blspkd.evaluation.decoding import decode_set, fingerprint_model
from blspkd.evaluation_config import DecodeConfig, TaskConfig
from blspkd.files import read_rows
from blspkd.kaldi.data_dir import read_table, write_table
from blspkd.models.base_models import choose_device
from blspkd.models.listener import Generated

RATE = 16000
WORDS = ["eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]
TASKS = {"repeat": TaskConfig(instruction="Repeat.", metrics=["wer"]),
         "shout": TaskConfig(instruction="Shout.", metrics=["exact_match"])}


class FakeListener:
    """Knows utterances by the number of their samples; answers with the instruction's first letter and the words.

    `loud`: samples -> whether any of them was not 0.
    """

    extractor = SimpleNamespace(sampling_rate=RATE)
    prompt = SimpleNamespace(split=lambda transcript, instruction: SimpleNamespace(input=list(transcript)))

    def __init__(self, transcripts, die_after=None):
        self.by_length = {100 * number: text for number, text in enumerate(transcripts, 1)}
        self.die_after = die_after
        self.listened = self.answered = 0
        self.told = {}  # samples -> the number of tokens that was given
        self.loud = {}

    def listen(self, waveforms, snap, recount, n_tokens):
        self.listened += len(waveforms)
        self.snap, self.recount = snap, recount
        self.loud |= {len(waveform): bool(waveform.any()) for waveform in waveforms}
        if n_tokens is not None:
            self.told |= dict(zip(map(len, waveforms), n_tokens, strict=True))
        return [torch.zeros(len(waveform), 1) for waveform in waveforms]

    def reply(self, speech, instructions, options):
        return self._answers([self.by_length[len(tokens)] for tokens in speech], instructions, options)

    def generate_from_text(self, transcripts, instructions, options):
        return self._answers(transcripts, instructions, options)

    def _answers(self, texts, instructions, options):
        if self.die_after is not None and self.answered >= self.die_after:
            raise KeyboardInterrupt
        self.answered += len(texts)
        noise = f" {torch.rand(1).item():.6f}" if options.do_sample else ""
        return [Generated(f"{instruction[0]} {text}{noise}", [1, 2], len(text), True)
                for text, instruction in zip(texts, instructions, strict=True)]


@pytest.fixture
def data_dir(tmp_path):
    """Nine utterances of different lengths, two of which say the same."""
    path = tmp_path / "data" / "test_set"
    path.mkdir(parents=True)
    ids = [f"utt{number}" for number in range(len(WORDS))]
    for number, utt_id in enumerate(ids, 1):
        soundfile.write(path / f"{utt_id}.wav", np.full(100 * number, 0.1, dtype=np.float32), RATE)
    write_table(path / "wav.scp", {utt_id: str(path / f"{utt_id}.wav") for utt_id in ids})
    write_table(path / "text", dict(zip(ids, WORDS, strict=True)))
    write_table(path / "utt2spk", {utt_id: utt_id for utt_id in ids})
    write_table(path / "spk2utt", {utt_id: utt_id for utt_id in ids})
    write_table(path / "text.shout", {utt_id: word.upper() for utt_id, word in zip(ids, WORDS, strict=True)})
    return path


@pytest.fixture
def config():
    return DecodeConfig(tasks=TASKS, batch_size=2, part_size=4)


def decode(data_dir, exp_dir, config, model="m1", listener=None):
    """Returns the listener, or None if it was never asked for."""
    loaded = []

    def load():
        loaded.append(listener or FakeListener(WORDS))
        return loaded[0]

    decode_set(load, {"model": model}, data_dir, exp_dir, config)
    return loaded[0] if loaded else None


def contents(folder):
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_every_task_and_system_gets_its_directory(data_dir, tmp_path, config):
    decode(data_dir, tmp_path / "exp", config)
    names = {f"decode_{task}_test_set{end}" for task in TASKS for end in ("", ".text", ".chance")}
    assert {path.name for path in (tmp_path / "exp").iterdir()} == names
    for name in names:
        assert {path.name for path in (tmp_path / "exp" / name).iterdir()} == {"hyp.jsonl", "text", "decode.json"}


def test_rows_of_speech_hold_all_that_scoring_needs(data_dir, tmp_path, config):
    decode(data_dir, tmp_path / "exp", config)
    rows = read_rows(tmp_path / "exp" / "decode_shout_test_set" / "hyp.jsonl")
    assert [row["utt_id"] for row in rows] == sorted(row["utt_id"] for row in rows)
    assert rows[4] == {"utt_id": "utt4", "instruction": "Shout.", "transcript": "fünf", "reference": "FÜNF",
                       "hypothesis": "S fünf", "n_tokens": 4, "n_tokens_reference": 4, "source_utt_id": "utt4",
                       "finished": True}
    assert read_table(tmp_path / "exp" / "decode_shout_test_set" / "text")["utt4"] == "S fünf"


def test_a_task_without_references_of_its_own_uses_the_transcript(data_dir, tmp_path, config):
    decode(data_dir, tmp_path / "exp", config)
    rows = read_rows(tmp_path / "exp" / "decode_repeat_test_set" / "hyp.jsonl")
    assert [row["reference"] for row in rows] == WORDS


@pytest.mark.parametrize("systems", [["speech", "chance"], ["chance"]])
def test_chance_hears_another_utterance_and_keeps_the_reference(data_dir, tmp_path, config, systems):
    config.systems = systems
    decode(data_dir, tmp_path / "exp", config)
    for row in read_rows(tmp_path / "exp" / "decode_shout_test_set.chance" / "hyp.jsonl"):
        heard = WORDS[int(row["source_utt_id"][3:])]
        assert heard != row["transcript"] and row["reference"] == row["transcript"].upper()
        assert (row["hypothesis"], row["n_tokens"]) == (f"S {heard}", len(heard))
        assert row["n_tokens_reference"] == len(row["transcript"])


def test_chance_is_the_same_decoded_or_read_off_speech(data_dir, tmp_path, config):
    decode(data_dir, tmp_path / "both", config)
    config.systems = ["chance"]
    decode(data_dir, tmp_path / "alone", config)
    name = "decode_repeat_test_set.chance/hyp.jsonl"
    assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_instructions_may_differ_by_utterance_also_for_chance(data_dir, tmp_path, config):
    config.tasks = {"repeat": TaskConfig(metrics=["wer"])}
    ids = read_table(data_dir / "text")
    write_table(data_dir / "instruction", {utt_id: f"{number} please" for number, utt_id in enumerate(ids)})
    decode(data_dir, tmp_path / "exp", config)
    for end in ("", ".text", ".chance"):
        for row in read_rows(tmp_path / "exp" / f"decode_repeat_test_set{end}" / "hyp.jsonl"):
            number = row["utt_id"][3:]
            assert row["instruction"] == f"{number} please"
            assert row["hypothesis"] == f"{number} {WORDS[int(row['source_utt_id'][3:])]}"


def test_an_utterance_is_heard_once_for_all_tasks(data_dir, tmp_path, config):
    listener = decode(data_dir, tmp_path / "exp", config)
    assert listener.listened == len(WORDS)


def test_a_second_run_does_nothing_and_loads_no_model(data_dir, tmp_path, config):
    decode(data_dir, tmp_path / "exp", config)
    before = contents(tmp_path / "exp")
    assert decode(data_dir, tmp_path / "exp", config) is None
    assert contents(tmp_path / "exp") == before


@pytest.mark.parametrize("die_after", [0, 1, 7, 18, 23, 35])
@pytest.mark.parametrize("do_sample", [False, True])
def test_a_run_that_was_killed_and_restarted_gives_the_same_files(data_dir, tmp_path, config, die_after, do_sample):
    config.do_sample = do_sample
    decode(data_dir, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        decode(data_dir, tmp_path / "broken", config, listener=FakeListener(WORDS, die_after=die_after))
    listener = decode(data_dir, tmp_path / "broken", config)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    total = len(WORDS) * len(TASKS) * (3 if do_sample else 2)
    saved = total - listener.answered
    assert saved >= die_after - config.part_size * len(TASKS)


def test_snapped_tokens_are_other_answers_of_what_listens_only(data_dir, tmp_path, config):
    assert decode(data_dir, tmp_path / "exp", config).snap == "model"
    snapped = decode(data_dir, tmp_path / "exp", replace(config, snap="hard"))
    assert snapped.snap == "hard" and snapped.listened == len(WORDS) and snapped.answered == 2 * len(WORDS)
    assert decode(data_dir, tmp_path / "exp", replace(config, snap="hard")) is None
    recounted = decode(data_dir, tmp_path / "exp", replace(config, snap="hard", recount=1))
    assert recounted.recount == 1 and recounted.answered == 2 * len(WORDS)


def test_an_oracle_is_told_how_many_tokens_the_transcript_of_what_it_hears_has(data_dir, tmp_path, config):
    assert not decode(data_dir, tmp_path / "exp", config).told
    oracle = decode(data_dir, tmp_path / "exp", replace(config, count="transcript"))
    assert oracle.told == {100 * number: len(word) for number, word in enumerate(WORDS, 1)}
    assert oracle.answered == 2 * len(WORDS)  # other answers of what listens; those to typed text stay
    assert decode(data_dir, tmp_path / "exp", replace(config, count="transcript")) is None
    with pytest.raises(ConfigError, match="recount: with count 'transcript' the number of tokens is known"):
        replace(config, count="transcript", recount=1)


def test_silence_has_the_lengths_of_the_utterances_and_nothing_else_of_them(data_dir, tmp_path, config):
    lengths = [100 * number for number in range(1, len(WORDS) + 1)]
    assert decode(data_dir, tmp_path / "exp", config).loud == dict.fromkeys(lengths, True)
    typed = contents(tmp_path / "exp/decode_shout_test_set.text")
    silence = replace(config, hears="silence")
    listener = decode(data_dir, tmp_path / "exp", silence)
    assert listener.loud == dict.fromkeys(lengths, False) and not listener.told
    assert listener.answered == 2 * len(WORDS)  # other answers of what listens; those to typed text stay
    assert contents(tmp_path / "exp/decode_shout_test_set.text") == typed
    assert decode(data_dir, tmp_path / "exp", silence) is None
    told = decode(data_dir, tmp_path / "exp", replace(silence, count="transcript"))  # what the number alone gives away
    assert told.told == {100 * number: len(word) for number, word in enumerate(WORDS, 1)}
    assert told.loud == dict.fromkeys(lengths, False)
    again = decode(data_dir, tmp_path / "exp", config)
    assert again.loud == dict.fromkeys(lengths, True)


def test_an_oracle_is_refused_where_there_is_no_transcript_or_more_than_one_count(data_dir, tmp_path, config):
    config = replace(config, count="transcript", systems=["speech"])
    listener = FakeListener(WORDS)
    listener.prompt = SimpleNamespace(split=lambda text, instruction: SimpleNamespace(input=list(text + instruction)))
    with pytest.raises(ConfigError, match=r"the transcript of utt. has another number of tokens in another"):
        decode(data_dir, tmp_path / "exp", config, listener=listener)
    (data_dir / "text").unlink()
    with pytest.raises(DataError, match=r"text: missing, and count 'transcript' takes the number of speech tokens"):
        decode(data_dir, tmp_path / "exp", replace(config, tasks={"shout": TASKS["shout"]}))


def test_a_task_may_belong_to_some_sets_only(data_dir, tmp_path, config):
    config = replace(config, tasks={**TASKS, "shout": replace(TASKS["shout"], sets=["another_set"])})
    decode(data_dir, tmp_path / "exp", config)
    assert {path.name.split("_test_set")[0] for path in (tmp_path / "exp").iterdir()} == {"decode_repeat"}
    config = replace(config, tasks={"repeat": replace(TASKS["repeat"], sets=["another_set"])})
    with pytest.raises(ConfigError, match="tasks: none for test_set"):
        decode(data_dir, tmp_path / "exp", config)


def test_half_written_files_of_a_kill_vanish(data_dir, tmp_path, config):
    decode(data_dir, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        decode(data_dir, tmp_path / "broken", config, listener=FakeListener(WORDS, die_after=11))
    folder = tmp_path / "broken" / "decode_repeat_test_set.text"
    for name in ("hyp.jsonl.tmp-1", "parts/part-00001.jsonl.tmp-1"):
        (folder / name).write_text("{")
    decode(data_dir, tmp_path / "broken", config)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_parts_of_another_model_are_not_mixed_in(data_dir, tmp_path, config):
    decode(data_dir, tmp_path / "whole", config, "m2")
    with pytest.raises(KeyboardInterrupt):
        decode(data_dir, tmp_path / "broken", config, "m1", FakeListener(["?"] * len(WORDS), die_after=30))
    decode(data_dir, tmp_path / "broken", config, "m2")
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


@pytest.mark.parametrize("change, what", [
    (lambda data_dir, config: "m2", "model"),
    (lambda data_dir, config: setattr(config, "max_new_tokens", 9), "options"),
    (lambda data_dir, config: write_table(data_dir / "text", read_table(data_dir / "text") | {"utt0": "null"}), "data"),
])
def test_what_changed_is_noticed_said_and_decoded_again(data_dir, tmp_path, config, caplog, change, what):
    decode(data_dir, tmp_path / "exp", config)
    stale = tmp_path / "exp" / "decode_shout_test_set" / "score.json"
    stale.write_text("{}")
    caplog.set_level("INFO")
    model = change(data_dir, config) or "m1"
    assert decode(data_dir, tmp_path / "exp", config, model) is not None
    assert f"made with another {what}" in caplog.text
    assert not stale.exists()


def test_a_changed_instruction_touches_only_its_task(data_dir, tmp_path, config):
    decode(data_dir, tmp_path / "exp", config)
    config.tasks = {**TASKS, "shout": dataclasses.replace(TASKS["shout"], instruction="Yell.")}
    listener = decode(data_dir, tmp_path / "exp", config)
    assert listener.answered == 2 * len(WORDS)
    assert read_rows(tmp_path / "exp" / "decode_shout_test_set.chance" / "hyp.jsonl")[0]["hypothesis"][0] == "Y"


def test_new_metrics_need_no_new_decoding(data_dir, tmp_path, config):
    decode(data_dir, tmp_path / "exp", config)
    config.tasks = {**TASKS, "shout": dataclasses.replace(TASKS["shout"], metrics=["bleu"])}
    config.num_bootstrap = 50
    assert decode(data_dir, tmp_path / "exp", config) is None


def test_max_utterances_draws_by_the_seed(data_dir, tmp_path, config):
    config.max_utterances = 4
    for name in ("one", "two"):
        decode(data_dir, tmp_path / name, config)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(read_rows(tmp_path / "one" / "decode_repeat_test_set" / "hyp.jsonl")) == 4


def test_an_empty_answer_and_a_strange_one_are_written(data_dir, tmp_path, config):
    listener = FakeListener(["", "zwei\nTeile\x00\u2028!", *WORDS[2:]])
    config.systems = ["speech"]
    decode(data_dir, tmp_path / "exp", config, listener=listener)
    folder = tmp_path / "exp" / "decode_repeat_test_set"
    assert read_table(folder / "text", allow_empty=True)["utt1"] == "R zwei Teile !"
    assert read_rows(folder / "hyp.jsonl")[1]["hypothesis"] == "R zwei\nTeile\x00\u2028!"


def test_unreadable_audio_names_the_utterance_and_keeps_finished_parts(data_dir, tmp_path, config):
    write_table(data_dir / "utt2dur", {f"utt{number}": str((number + 1) / 160) for number in range(len(WORDS))})
    (data_dir / "utt0.wav").write_bytes(b"no audio")
    with pytest.raises(AudioError, match="utterance utt0"):
        decode(data_dir, tmp_path / "exp", config)
    assert (tmp_path / "exp" / "decode_repeat_test_set" / "parts" / "part-00000.jsonl").is_file()
    assert not list((tmp_path / "exp").rglob("*.tmp-*"))


def test_a_model_that_cannot_be_loaded_leaves_nothing_behind(data_dir, tmp_path, config):
    def load():
        raise ModelError("damaged")

    with pytest.raises(ModelError):
        decode_set(load, {}, data_dir, tmp_path / "exp", config)
    assert not (tmp_path / "exp").exists()


def test_a_missing_reference_names_file_and_utterance(data_dir, tmp_path, config):
    references = read_table(data_dir / "text.shout")
    del references["utt3"]
    write_table(data_dir / "text.shout", references)
    with pytest.raises(DataError, match=r"text\.shout.*utt3"):
        decode(data_dir, tmp_path / "exp", config)
    assert not (tmp_path / "exp").exists()


def test_no_instruction_anywhere_is_an_error(data_dir, tmp_path, config):
    config.tasks = {"repeat": TaskConfig()}
    with pytest.raises(DataError, match=r"tasks\.repeat\.instruction"):
        decode(data_dir, tmp_path / "exp", config)


def test_the_file_instruction_is_read_only_where_a_task_needs_it(data_dir, tmp_path, config):
    (data_dir / "instruction").write_text("utt0 Say.\nutt0 twice\n")
    decode(data_dir, tmp_path / "exp", config)
    config.tasks = {"repeat": TaskConfig()}
    with pytest.raises(DataError, match="instruction"):
        decode(data_dir, tmp_path / "exp", config)


def test_no_tasks_is_an_error(data_dir, tmp_path, config):
    config.tasks = {}
    with pytest.raises(ConfigError, match="tasks"):
        decode(data_dir, tmp_path / "exp", config)


def test_a_set_without_transcripts_can_be_decoded_from_speech(data_dir, tmp_path, config):
    (data_dir / "text").unlink()
    config.tasks = {"shout": TASKS["shout"]}
    with pytest.raises(DataError, match="text"):
        decode(data_dir, tmp_path / "exp", config)
    config.systems = ["speech"]
    decode(data_dir, tmp_path / "exp", config)
    row = read_rows(tmp_path / "exp" / "decode_shout_test_set" / "hyp.jsonl")[0]
    assert row["hypothesis"] == "S eins" and row["n_tokens_reference"] is None


def test_a_model_is_told_from_another_by_its_files(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(ModelError, match="stage 3"):
        fingerprint_model(folder, str)
    (folder / "config.yaml").write_text("model: {llm: some/llm, speech_encoder: some/encoder}\nprompt: {}\n")
    (folder / "adapter.safetensors").write_bytes(b"1")
    first = fingerprint_model(folder, str.upper)
    assert fingerprint_model(folder, str.upper, "float32") == first != fingerprint_model(folder, str.upper, "bfloat16")
    assert (first["llm"], first["speech encoder"]) == ("SOME/LLM", "SOME/ENCODER")
    assert json.loads(json.dumps(first)) == first
    shutil.copytree(folder, tmp_path / "elsewhere" / "model")
    assert fingerprint_model(tmp_path / "elsewhere" / "model", str.upper) == first
    (folder / "adapter.safetensors").write_bytes(b"2")
    assert fingerprint_model(folder, str.upper) != first


def test_a_device_that_is_not_there_is_an_error():
    assert choose_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="device"):
        choose_device("cuda:77")
    with pytest.raises(ConfigError, match="device"):
        choose_device("abacus")
