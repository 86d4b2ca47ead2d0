"""The LLM's continuations: batching must not change them, special tokens must not leak, bad models are named."""

import shutil

import pytest
import torch
from transformers import GenerationConfig

from blspkd.config import ContinuationConfig, PromptConfig
from blspkd.errors import ConfigError, DataError, ModelError
from blspkd.generation import filters
from blspkd.generation.continuation import ContinuationWriter

TRANSCRIPTS = {f"utt{i:02d}": text for i, text in enumerate([
    "the farmer sold six bags", "a cat", "we found two red cats in the park and then she reads a long book on monday",
    "they ate", "Grüße, 你好 – ‘naïve’ 🦊", "the pilot bought a car at noon", "she", "a nurse saw the old house"])}


def make_writer(llm, **options) -> ContinuationWriter:
    options = {"max_new_tokens": 24, "do_sample": False, "prompt": PromptConfig(instruction="Continue:"), **options}
    return ContinuationWriter(str(llm), ContinuationConfig(**options))


def write_all(writer, transcripts=TRANSCRIPTS) -> dict:
    written = {}
    for batch in writer.plan(transcripts):
        written.update(writer.write({utt_id: transcripts[utt_id] for utt_id in batch}))
    return written


def test_batches_hold_every_utterance_and_transcripts_that_are_too_long_come_with_the_first(tiny_llm):
    writer = make_writer(tiny_llm, batch_size=2, max_input_tokens=12)
    batches = writer.plan(TRANSCRIPTS)
    assert sorted(utt_id for batch in batches for utt_id in batch) == sorted(TRANSCRIPTS)
    too_long = {utt_id for utt_id, written in write_all(writer).items() if written.reason == filters.INPUT_TOO_LONG}
    assert too_long and too_long < set(batches[0])
    assert [len(set(batch) - too_long) for batch in batches] == [2, 2, 2]
    lengths = [len(writer.text.prompt.split(TRANSCRIPTS[utt_id]).input) for batch in batches for utt_id in batch
               if utt_id not in too_long]
    assert lengths == sorted(lengths, reverse=True)


def test_a_part_of_nothing_but_transcripts_that_are_too_long_is_one_batch(tiny_llm):
    writer = make_writer(tiny_llm, max_input_tokens=1)
    assert writer.plan({"b": "a cat", "a": "they ate"}) == [["b", "a"]]
    assert {written.reason for written in write_all(writer, {"b": "a cat"}).values()} == {filters.INPUT_TOO_LONG}


@torch.inference_mode()
def greedy_reference(writer, transcript: str) -> tuple[list[int], bool]:
    """One utterance, no padding, no cache: the arg max of the logits, token by token."""
    ids = writer.text.prompt.split(transcript)
    tokens = ids.prefix + ids.input + ids.suffix
    written = []
    while len(written) < writer.config.max_new_tokens:
        token = writer.engine.listener.model.causal_lm(torch.tensor([tokens + written])).logits[0, -1].argmax().item()
        if token in writer.text.ends:
            return written, True
        written.append(token)
    return written, False


def test_greedy_batches_equal_one_by_one_generation(tiny_llm):
    """Also: the model's own defaults (repetition penalty ...) do not count, and left padding changes nothing."""
    writer = make_writer(tiny_llm, batch_size=3)
    written = write_all(writer)
    assert written.keys() == TRANSCRIPTS.keys()
    for utt_id, transcript in TRANSCRIPTS.items():
        ids, finished = greedy_reference(writer, transcript)
        ours = written[utt_id]
        expected = writer.text.tokenizer.decode(ids, skip_special_tokens=True)
        assert (ours.text, ours.n_tokens, ours.finished) == (expected, len(ids), finished)


def test_a_models_own_generation_defaults_do_not_count(tiny_llm, tmp_path):
    shutil.copytree(tiny_llm, tmp_path / "llm")
    writer = make_writer(tiny_llm)
    GenerationConfig(eos_token_id=4, repetition_penalty=5.0, do_sample=True, top_k=2, max_new_tokens=2,
                     min_new_tokens=20).save_pretrained(tmp_path / "llm")
    assert write_all(make_writer(tmp_path / "llm")) == write_all(writer)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_samples_do_not_depend_on_batch_mates(tiny_llm, batch_size):
    together = write_all(make_writer(tiny_llm, do_sample=True, batch_size=8, temperature=1.3, top_p=0.9))
    writer = make_writer(tiny_llm, do_sample=True, batch_size=batch_size, temperature=1.3, top_p=0.9)
    assert write_all(writer) == together
    assert write_all(writer, {"utt03": TRANSCRIPTS["utt03"]})["utt03"] == together["utt03"]


def test_samples_differ_by_seed_and_from_greedy(tiny_llm):
    texts = [tuple(sorted((utt_id, c.text) for utt_id, c in write_all(make_writer(tiny_llm, **options)).items()))
             for options in ({}, {"do_sample": True}, {"do_sample": True, "seed": 1})]
    assert len(set(texts)) == 3


def test_a_low_temperature_sample_is_the_greedy_continuation(tiny_llm):
    assert write_all(make_writer(tiny_llm, do_sample=True, temperature=1e-4)) == write_all(make_writer(tiny_llm))


def test_what_is_kept_holds_no_special_token_and_ends_before_the_end_of_turn(tiny_llm):
    writer = make_writer(tiny_llm, do_sample=True, temperature=2.0, max_new_tokens=5)
    transcripts = {f"u{i:03d}": "the farmer sold six bags" for i in range(300)}
    written = write_all(writer, transcripts)
    kept = [c for c in written.values() if c.reason is None]
    assert kept and any(c.finished for c in written.values())
    for continuation in kept:
        assert not any(special in continuation.text for special in writer.text.tokenizer.all_special_tokens)
    assert {c.reason for c in written.values()} >= {None, filters.SPECIAL_TOKENS}


def test_transcripts_too_long_for_the_option_or_the_context_are_left_out(tiny_llm):
    long = "the farmer sold six bags " * 200  # more than the LLM's 512 positions
    written = write_all(make_writer(tiny_llm, max_input_tokens=4), {"a": "a cat", "b": "we found two red cats"})
    assert [written[utt_id].reason == filters.INPUT_TOO_LONG for utt_id in "ab"] == [False, True]
    written = write_all(make_writer(tiny_llm, max_input_tokens=5000), {"a": "a cat", "long": long})
    assert [written[utt_id].reason == filters.INPUT_TOO_LONG for utt_id in ("a", "long")] == [False, True]


def test_a_prompt_that_leaves_no_room_is_an_error(tiny_llm):
    with pytest.raises(ConfigError, match="max_new_tokens.*context of 512"):
        make_writer(tiny_llm, max_new_tokens=510)


def test_an_empty_transcript_is_named(tiny_llm):
    with pytest.raises(DataError, match="utterance utt-b"):
        write_all(make_writer(tiny_llm), {"utt-a": "a cat", "utt-b": " "})


@pytest.mark.parametrize("name", ["no/such/folder", "/no/such/folder", "./nowhere", "nobody/no-such-model"])
def test_a_model_that_is_not_there_is_named(name):
    with pytest.raises(ModelError, match=name):
        make_writer(name)


def test_a_folder_without_weights_is_named(tiny_llm, tmp_path):
    shutil.copytree(tiny_llm, tmp_path / "llm")
    (tmp_path / "llm" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="llm.*cannot be loaded"):
        make_writer(tmp_path / "llm")


def test_a_tokenizer_without_chat_template_is_refused(tiny_llm, tmp_path):
    shutil.copytree(tiny_llm, tmp_path / "llm")
    (tmp_path / "llm" / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        make_writer(tmp_path / "llm")


def test_a_reply_that_spells_a_special_token_is_kept_as_text(tiny_llm):
    writer = make_writer(tiny_llm)
    ids = writer.text.prompt.response("she said <|end|> twice")
    written = writer._finish(ids[:-1], True)
    assert (written.text, written.finished, written.reason) == ("she said <|end|> twice", True, None)
    assert writer.text.prompt.response(written.text) == ids
