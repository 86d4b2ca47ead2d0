"""A short training of two processes: where the time of a step goes, rank by rank, and what a checkpoint costs."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from scale_row import Row
from scale_stages import command

PROCESSES, UTTERANCES, SECONDS = 2, 64, 3.0
LOG_STEPS = 5  # the first lines hold what happens once, and are left out
ADAPTER = {"num_pre_cif_layers": 2, "num_post_cif_layers": 2, "heads": 4, "ffn_dim": 576}
ENCODER = {"d_model": 192, "encoder_layers": 4, "encoder_attention_heads": 4, "encoder_ffn_dim": 768,
           "decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 192}


def make_encoder(folder: Path) -> Path:
    """A Whisper of random weights."""
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    torch.manual_seed(0)
    WhisperForConditionalGeneration(WhisperConfig(**ENCODER)).save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def make_speech(folder: Path, llm: Path) -> Path:
    """A small data directory of noise, as long as it says."""
    from scale_start import make_data_dir

    data = make_data_dir(folder, UTTERANCES, str(llm))
    generator = np.random.default_rng(0)
    for path in data.glob("*.flac"):
        soundfile.write(path, generator.standard_normal(int(16000 * SECONDS)) * 1e-2, 16000)
    ids = [line.split()[0] for line in (data / "utt2dur").read_text(encoding="utf-8").splitlines()]
    (data / "utt2dur").write_text("".join(f"{utt_id} {SECONDS}\n" for utt_id in ids), encoding="utf-8")
    return data


def training(folder: Path, llm: Path, steps: int) -> Iterator[Row]:
    """Rows of a training with PLoRA and a trained encoder; checkpoints after half of the steps and at the end."""
    data, encoder, output = make_speech(folder / "speech", llm), make_encoder(folder / "whisper"), folder / "exp"
    command("blspkd.bin.launch", "--standalone", "--nproc_per_node", PROCESSES, "-m", "blspkd.bin.train",
            "--llm", llm, "--speech_encoder", encoder, "--train_dir", data, "--valid_dir", data, "--output_dir", output,
            "--pad_to_30s", "false", "--adapter_options", json.dumps(ADAPTER), "--plora_rank", "16", "--train_encoder",
            "true", "--batch_utterances", "4", "--num_workers", "0", "--warmup_steps", "1", "--max_steps", steps,
            "--log_steps", LOG_STEPS, "--save_steps", steps // 2, "--eval_steps", "0")
    checkpoint = output / f"checkpoint-{steps}"
    history = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    lines = [row for row in history if "time_forward" in row][1:]
    for name in sorted({key for row in lines for key in row if key.startswith("time_")}):
        value = float(np.mean([row[name] for row in lines]))
        part, _, rank = name.removeprefix("time_").partition("_rank")
        if part != "checkpoint" and value:
            yield Row("training", f"{part} a step, " + (f"rank {rank}" if rank else "mean of the ranks"), value, "s")
    for name, unit in ("tokens_per_second", "tok/s"), ("audio_seconds_per_second", "s/s"), ("padding", "%"):
        yield Row("training", name.replace("_", " "), float(np.mean([row[name] for row in lines])), unit)
    written = max(row["time_checkpoint"] for row in lines) * LOG_STEPS
    yield Row("training", "a checkpoint: time to write", written, "s")
    yield Row("training", "a checkpoint: size", sum(path.stat().st_size for path in checkpoint.rglob("*")) / 1e6, "MB")
