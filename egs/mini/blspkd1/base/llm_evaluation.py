"""What the LLM can do on held-out rows, text in, text out: the upper bound of everything spoken."""

import random
from collections import defaultdict

import jiwer
import sacrebleu
import torch
from lm_rows import Row
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaForCausalLM

from blspkd.data.prompts import Prompt


def evaluate_llm(model: LlamaForCausalLM, prompt: Prompt, rows: list[Row], max_rows: int) -> dict[str, float]:
    """Answer (up to) `max_rows` rows greedily; percentages: BLEU, WER or exact match by task.

    Continuations have no single right answer and are left out.
    """
    rows = [row for row in rows if row.task != "continue"]
    rows = random.Random(0).sample(rows, min(max_rows, len(rows)))
    by_task = defaultdict(list)
    for row, answer in zip(rows, answer_rows(model, prompt, rows), strict=True):
        by_task[row.task].append((answer, row.output))
    results = {}
    for task, pairs in sorted(by_task.items()):
        answers, references = [list(column) for column in zip(*pairs, strict=True)]
        if task == "translate":
            results["translate BLEU"] = sacrebleu.corpus_bleu(answers, [references]).score
        if task == "repeat":
            results["repeat WER"] = 100 * jiwer.wer(references, answers)
        results[f"{task} EM"] = 100 * sum(a == r for a, r in pairs) / len(pairs)
    return {name: round(value, 2) for name, value in results.items()}


@torch.no_grad()
def answer_rows(model: LlamaForCausalLM, prompt: Prompt, rows: list[Row], batch_size: int = 100) -> list[str]:
    """Greedy answers, through Hugging Face's own `generate`."""
    tokenizer = prompt.tokenizer
    answers = []
    for start in range(0, len(rows), batch_size):
        turns = [prompt.split(row.input, row.instruction) for row in rows[start:start + batch_size]]
        turns = [torch.tensor(ids.prefix + ids.input + ids.suffix) for ids in turns]
        inputs = pad_sequence(turns, batch_first=True, padding_value=tokenizer.pad_token_id, padding_side="left")
        is_real = pad_sequence([torch.ones_like(ids) for ids in turns], batch_first=True, padding_side="left")
        output = model.generate(inputs, attention_mask=is_real, max_new_tokens=80, do_sample=False)  # [B, L + written]
        answers += tokenizer.batch_decode(output[:, inputs.shape[1]:], skip_special_tokens=True)
    return answers
