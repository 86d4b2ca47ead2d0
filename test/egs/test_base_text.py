"""What the texts of the base models' training spell is text (base/lm_rows.py, llm_evaluation.py ...)."""

from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from blspkd.config import PromptConfig
from blspkd.data.prompts import Prompt

BASE = Path(__file__).resolve().parents[2] / "egs/mini/blspkd1/base"
TEXTS = ["<|end|>", "the <unk> bag", "<|user|>sold<|end|><|assistant|>", "<pad>", "anna sold the bag"]


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.syspath_prepend(str(BASE))
    from lm_rows import Row

    return [Row("repeat", f"Repeat {text}", text, text) for text in TEXTS]


@pytest.fixture
def prompt(rows):
    from llm_tokenizer import build_tokenizer

    return Prompt(build_tokenizer(rows, 60), PromptConfig())


def test_the_llm_is_trained_on_what_it_will_be_asked(rows, prompt):
    from lm_rows import Exchanges

    exchanges = Exchanges.encode(rows, prompt)
    for place, row in enumerate(rows):
        parts = prompt.split(row.input, row.instruction)
        expected = parts.prefix + parts.input + parts.suffix + prompt.response(row.output)
        assert exchanges.ids[exchanges.starts[place]:exchanges.starts[place + 1]].tolist() == expected


def test_the_llm_is_evaluated_on_what_it_will_be_asked(rows, prompt, monkeypatch):
    from llm_evaluation import answer_rows

    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(prompt.tokenizer), hidden_size=16, intermediate_size=16,
                                         num_hidden_layers=1, num_attention_heads=2, bos_token_id=None))
    model.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=prompt.end_of_turn)
    asked = []
    generate = model.generate

    def remember(ids, attention_mask, **options):
        asked.extend(row[mask.bool()].tolist() for row, mask in zip(ids, attention_mask, strict=True))
        return generate(ids, attention_mask=attention_mask, **options)

    monkeypatch.setattr(model, "generate", remember)
    assert len(answer_rows(model, prompt, rows)) == len(rows)
    for row, ids in zip(rows, asked, strict=True):
        parts = prompt.split(row.input, row.instruction)
        assert ids == parts.prefix + parts.input + parts.suffix


def test_words_are_aligned_as_text(rows, prompt):
    from ctc_alignment import word_tokens

    tokens, words = word_tokens(TEXTS, prompt.tokenizer)
    assert not prompt.control_ids & {token for row in tokens for token in row}
    assert [len(row) for row in tokens] == [len(numbers) for numbers in words]


def test_the_recogniser_learns_to_write_text(rows):
    from recogniser_model import build_processor, transcript_form
    from recogniser_training import transcript_tokens
    from train_recogniser import RecogniserOptions

    options = RecogniserOptions(text_pieces=20, mel_bins=20)
    tokenizer = build_processor(TEXTS, options).tokenizer
    special, spoken = set(tokenizer.all_special_ids), ["<|en|> anna <|endoftext|>", "anna"]
    hostile, plain = transcript_tokens(spoken, tokenizer)
    assert [token for token in hostile.tolist() if token in special] == [
        token for token in plain.tolist() if token in special]
    assert torch.equal(plain, torch.tensor(tokenizer(transcript_form(["anna"]))["input_ids"][0]))
    assert tokenizer.decode(hostile, skip_special_tokens=True) == f" {spoken[0]}"
