"""Train a small LlamaForCausalLM on the corpus's exchanges, rendered by its own chat template.

The response is what is learnt; the input counts with a smaller weight, so that the model also knows which sentences are
likely. Gaussian noise on the input's embeddings makes it read a token from the neighbourhood of its embedding, not from
the one exact vector: speech tokens never hit the vector exactly, and without the noise a model this small translates
them into fluent German with the wrong nouns.
"""

import time
from pathlib import Path

import numpy as np
import torch
from base_output import fingerprint, write_record
from llm_evaluation import evaluate_llm
from llm_options import LlmOptions
from lm_rows import Exchanges, read_rows
from torch import Tensor
from torch.nn import functional
from training_loop import Schedule, prepare_cpu, train
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from blspkd.config import PromptConfig
from blspkd.data.pretrained import load_pretrained
from blspkd.data.prompts import Prompt
from blspkd.files import atomic_path


def make_llm(options: LlmOptions, made_from: dict) -> None:
    """Train, evaluate and save: afterwards `options.output_dir` is a complete Hugging Face folder."""
    begin = time.monotonic()
    folder = Path(options.output_dir)
    tokenizer = load_pretrained(AutoTokenizer, options.tokenizer_dir)
    prompt = Prompt(tokenizer, PromptConfig())
    exchanges = Exchanges.encode(read_rows(Path(options.lm_dir) / "train.jsonl"), prompt)
    model = build_llm(options, len(tokenizer), prompt)
    print(f"LLM: {sum(p.numel() for p in model.parameters()):,} parameters, {len(exchanges.lengths):,} exchanges, "
          f"{options.llm_steps} steps of {options.batch_size}", flush=True)

    def step_loss(step: int, rows: np.ndarray, generator: torch.Generator) -> Tensor:
        return exchange_loss(model, exchanges, rows, options, generator)

    schedule = Schedule(options.llm_steps, options.learning_rate, min(options.warmup_steps, options.llm_steps // 2),
                        options.batch_size, options.seed, options.save_steps, options.optimizer)
    checkpoint = folder.with_name(folder.name + ".checkpoint.safetensors")
    train(model, step_loss, exchanges.lengths, schedule, checkpoint, fingerprint(made_from), "train LLM")

    results = evaluate_llm(model, prompt, read_rows(Path(options.lm_dir) / "dev.jsonl"), options.eval_rows)
    print("LLM, dev rows: " + ", ".join(f"{name} {value:.2f}" for name, value in results.items()))
    with atomic_path(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_record(temporary, made_from, {**results, "seconds": round(time.monotonic() - begin, 1)})
    checkpoint.unlink(missing_ok=True)
    print(f"LLM: {folder}, made in {time.monotonic() - begin:.0f} s")


def build_llm(options: LlmOptions, vocab_size: int, prompt: Prompt) -> LlamaForCausalLM:
    """A freshly initialised model whose generation stops at the end of the turn."""
    prepare_cpu()
    torch.manual_seed(options.seed)
    pad = prompt.tokenizer.pad_token_id
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=options.hidden_size, intermediate_size=options.ffn_size,
        num_hidden_layers=options.num_layers, num_attention_heads=options.num_heads,
        max_position_embeddings=options.max_positions, tie_word_embeddings=True, pad_token_id=pad, bos_token_id=None,
        eos_token_id=prompt.end_of_turn, attn_implementation="eager")  # eager: faster than SDPA at this size on CPU
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=prompt.end_of_turn, pad_token_id=pad, bos_token_id=None)
    return model


def exchange_loss(model: LlamaForCausalLM, exchanges: Exchanges, rows: np.ndarray, options: LlmOptions,
                  generator: torch.Generator) -> Tensor:
    """Weighted mean cross-entropy of the next token, over response (weight 1) and input positions."""
    batch = exchanges.batch(rows, model.config.pad_token_id)  # [B, L]
    embedded = model.get_input_embeddings()(batch.ids)  # [B, L, D]
    rms = embedded.detach()[batch.is_input].pow(2).mean().sqrt()
    scale = options.max_noise * rms * torch.rand(len(rows), 1, 1, generator=generator)
    noise = torch.randn(embedded.shape, generator=generator)
    embedded = embedded + batch.is_input[..., None] * scale * noise

    # The token at position l is predicted at l - 1.
    weights = (batch.is_response + options.input_weight * batch.is_input)[:, 1:].flatten()  # [B * (L - 1)]
    counted = weights.nonzero()[:, 0]
    # Logits where a loss is taken only, filled up to a multiple of 128 positions with ones of weight 0: every new shape
    # costs the CPU back end time, and memory for good.
    place = functional.pad(counted, (0, -len(counted) % 128))
    weights = functional.pad(weights[counted], (0, len(place) - len(counted)))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bf16):
        hidden = model.model(inputs_embeds=embedded, attention_mask=batch.is_real.long(), use_cache=False)[0]
        logits = model.lm_head(hidden[:, :-1].flatten(0, 1)[place])
    losses = functional.cross_entropy(logits.float(), batch.ids[:, 1:].flatten()[place], reduction="none")
    return (losses * weights).sum() / weights.sum()
