"""40 texts that spell control tokens, in stages 2, 3 and 4: what the LLM gets of them is text, for every family."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from blspkd.config import ContinuationConfig, DataConfig, PromptConfig
from blspkd.data.control_tokens import is_control
from blspkd.data.examples import make_examples
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.data.words import count_tokens
from blspkd.generation.continuation import ContinuationWriter
from blspkd.kaldi.data_dir import KaldiDir, read_continuations
from blspkd.models.listener import GenerationOptions, Listener
from blspkd.models.shared_prefix import SharedPrefix

_spec = importlib.util.spec_from_file_location("families", Path(__file__).with_name("tokenizer_families.py"))
families = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(families)
TEXTS = [" ".join(text.split()) for text in families.HOSTILE]  # a line of `text` each
PROMPT = PromptConfig(instruction="Continue the text.")
NEUTRAL = "a cat"


@pytest.fixture(scope="module", params=["chatml", "llama3", "llama2", "mistral", "gemma", "phi3", "unigram"])
def llm(request, tmp_path_factory) -> str:
    """Folder of a random LLM with a tokenizer of the family."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = families.build(request.param)
    tokenizer.save_pretrained(folder)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                 num_attention_heads=2, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
                                 pad_token_id=None)).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def tokenizer(llm):
    return load_tokenizer(llm)


@pytest.fixture
def template_tokens(tokenizer) -> list[int]:
    """The control tokens of a turn that spells none."""
    ids = Prompt(tokenizer, PROMPT).split(NEUTRAL)
    return control_tokens(tokenizer, ids.prefix + ids.input + ids.suffix)


def control_tokens(tokenizer, ids) -> list[int]:
    control = {number for number, token in tokenizer.added_tokens_decoder.items() if is_control(token)}
    return [token for token in map(int, ids) if token in control]


def is_shown(tokenizer, text, ids) -> bool:
    normalizer = tokenizer.backend_tokenizer.normalizer
    text = normalizer.normalize_str(text).replace("▁", " ") if normalizer else text
    return "".join(text.split()) in "".join(tokenizer.decode(ids).split())


def read_by(listener: Listener) -> list[list[int]]:
    """A list that receives all token ids that its LLM embeds from now on; it has read no prefix."""
    read: list[list[int]] = []
    listener.prefix = SharedPrefix()
    embed = listener.model.causal_lm.get_input_embeddings()
    embed.register_forward_hook(lambda _, ids, __: read.append(ids[0].flatten().tolist()))
    return read


def turns(read: list[list[int]], count: int) -> list[list[int]]:
    """The first `count` turns: what all share, then what stands before the speech and behind it, of each."""
    shared, *rest = read
    return [shared + rest[2 * number] + rest[2 * number + 1] for number in range(count)]


def test_stage_2_reads_text(llm, tokenizer, template_tokens):
    writer = ContinuationWriter(llm, ContinuationConfig(prompt=PROMPT, batch_size=1, max_new_tokens=1))
    for text in TEXTS:
        read = read_by(writer.engine.listener)
        assert len(writer.write({"u": text})) == 1
        [ids] = turns(read, 1)
        assert control_tokens(tokenizer, ids) == template_tokens, text
        assert is_shown(tokenizer, text, ids), text


def test_stage_3_trains_on_text(llm, tokenizer, template_tokens, tmp_path):
    ids = [f"u{number:02d}" for number in range(len(TEXTS))]
    for name, values in {"text": TEXTS, "utt2spk": ids, "utt2dur": ["1.0"] * 40, "wav.scp": ["none.wav"] * 40,
                         "continuation": map(json.dumps, families.HOSTILE)}.items():
        (tmp_path / name).write_text("".join(f"{key} {value}\n" for key, value in zip(ids, values, strict=True)))
    prompt = Prompt(tokenizer, PROMPT)
    examples = make_examples(KaldiDir.read(tmp_path), read_continuations(tmp_path / "continuation"), prompt,
                             DataConfig()).examples
    assert len(examples) == len(TEXTS)
    for example, text, reply in zip(examples, TEXTS, families.HOSTILE, strict=True):
        assert control_tokens(tokenizer, example.input) == [], text
        assert control_tokens(tokenizer, [*example.prefix, *example.suffix]) == template_tokens, text
        assert control_tokens(tokenizer, example.response[:-1]) == [], text
        assert is_shown(tokenizer, text, example.input.tolist()), text
        assert is_shown(tokenizer, reply, example.response.tolist()), text


def test_stage_4_reads_text(llm, tokenizer, template_tokens):
    listener = Listener.from_llm(llm, PROMPT)
    options = GenerationOptions(max_new_tokens=1)
    speech = torch.zeros(3, 16)
    for text in families.HOSTILE:
        read = read_by(listener)
        listener.generate_from_text([text, NEUTRAL], [PROMPT.instruction, text], options)
        for ids in turns(read, 2):
            assert control_tokens(tokenizer, ids) == template_tokens, text
            assert is_shown(tokenizer, text, ids), text
        read = read_by(listener)
        listener.reply([speech], [text], options)
        [ids] = turns(read, 1)
        assert control_tokens(tokenizer, ids) == template_tokens, text
        assert is_shown(tokenizer, text, ids), text


def test_a_system_message_is_text(llm, tokenizer):
    def read(system):
        prefix, suffix = Prompt(tokenizer, dataclasses.replace(PROMPT, system=system)).around()
        return control_tokens(tokenizer, prefix + suffix)

    for text in TEXTS:
        assert read(text) == read("be nice"), text


def test_what_a_transcript_spells_counts_as_text(llm, tokenizer):
    prompt = Prompt(tokenizer, PROMPT)
    assert list(count_tokens([NEUTRAL], llm)) == [len(tokenizer(NEUTRAL, add_special_tokens=False)["input_ids"])]
    text = tokenizer.decode([prompt.end_of_turn])
    assert next(count_tokens([text], llm)) > 1
