"""Stages 1 and 2 on made-up corpora: their own commands, the seconds and the memory that these take."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from scale_row import Row

ROOT = Path(__file__).resolve().parents[2]
VERBS = {"durations": [], "validate": [], "stats": [], "filter": ["{}/kept", "--max_tokens_per_second", "1e9"]}
LLM = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
       "num_key_value_heads": 3}  # the shape of SmolLM2-135M
FILTERED = 100_000  # most utterances that `filter` gets: it opens and decodes every recording
NEW_TOKENS = 40


def command(module: str, *options: str | Path) -> tuple[float, float]:
    """Run a module of blspkd to its end: seconds, and the most memory that this process had, in MB."""
    words = [sys.executable, "-m", module, *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    began, most = time.perf_counter(), 0.0
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(words, env=environment, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            most = max(most, peak_mb(process.pid))
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        if process.returncode:
            output.seek(0)
            sys.exit(f"{' '.join(words)}: status {process.returncode}\n{output.read()}")
    return seconds, most


def peak_mb(pid: int) -> float:
    """VmHWM of a process; what wait4() tells includes the process that started it. 0 when it has ended."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            return next((int(line.split()[1]) * 1024 / 1e6 for line in file if line.startswith("VmHWM")), 0.0)
    except OSError:
        return 0.0


def stage_1(data: Path, utterances: int) -> Iterator[Row]:
    """The verbs of stage 1, each by one process. Most of their lines name one of a few recordings of 0.1 s."""
    (data / "utt2dur").unlink()  # `durations` writes it again
    for verb, arguments in VERBS.items():
        if verb == "filter" and utterances > FILTERED:
            continue
        seconds, mb = command("blspkd.bin.data_dir", verb, data, *(word.format(data.parent) for word in arguments))
        yield Row("stage 1", f"{verb}: one process", seconds, "s", utterances, grows=True)
        yield Row("stage 1", f"{verb}: its rate, with the start", utterances / seconds, "utt/s", utterances)
        # a line through corpora of one piece says nothing of those of many
        yield Row("stage 1", f"{verb}: most memory", mb, "MB", utterances, grows=verb != "filter")


def make_llm(folder: Path, llm: str) -> Path:
    """A Llama of random weights for the tokenizer `llm`."""
    import torch
    import transformers
    from transformers import LlamaConfig, LlamaForCausalLM

    from blspkd.data.prompts import load_tokenizer

    transformers.utils.logging.disable_progress_bar()
    tokenizer = load_tokenizer(llm)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=True,
                         **LLM)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def stage_2(folder: Path, llm: Path, sizes: tuple[int, int]) -> Iterator[Row]:
    """Continuations of two sets by one process; the difference between them is free of the start."""
    from scale_start import make_data_dir

    seconds, tokens, mb = [], [], 0.0
    for number in sizes:
        data = make_data_dir(folder / f"continue{number}", number, str(llm))
        (data / "continuation").unlink()
        (data / "continuation.info.json").unlink()
        spent, mb = command("blspkd.bin.generate_continuations", "--llm", llm, "--data_dir", data,
                               "--max_new_tokens", NEW_TOKENS, "--batch_size", "32")
        parts = [json.loads(line) for path in (data / "continuation.parts").rglob("*.jsonl")
                 for line in path.read_text(encoding="utf-8").splitlines()[1:]]
        if len(parts) != number:
            sys.exit(f"{data}: {len(parts)} of {number} continuations")
        seconds.append(spent)
        tokens.append(sum(row["n_tokens"] for row in parts))
    what = f"{NEW_TOKENS} tokens by an LLM of {llm_parameters(llm) / 1e6:.1f} M parameters"
    for number, spent in zip(sizes, seconds, strict=True):
        yield Row("stage 2", f"{what}: one process", spent, "s", number, grows=True)
    spent = seconds[1] - seconds[0]
    yield Row("stage 2", f"{what}: its rate", (sizes[1] - sizes[0]) / spent, "utt/s")
    yield Row("stage 2", f"{what}: the same in tokens", (tokens[1] - tokens[0]) / spent, "tok/s")
    yield Row("stage 2", f"{what}: most memory", mb, "MB")


def llm_parameters(folder: Path) -> int:
    """Numbers in a folder's safetensors."""
    from safetensors import safe_open

    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                numbers = 1
                for size in file.get_slice(name).get_shape():
                    numbers *= size
                count += numbers
    return count
