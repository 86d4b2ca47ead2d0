"""A data directory with audio of every kind, and what packs it."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blspkd.config import PromptConfig
from blspkd.data.packed.pack import Packing
from blspkd.data.prompts import Prompt, load_tokenizer

TEXTS = ["the farmer sold six bags", "a nurse saw the old house", "we found two red cats in the park",
         "she reads a book on monday", "the pilot bought a car", "they ate nine cakes at noon", "état, naïve 東京",
         "six"]
INSTRUCTIONS = {"Continue:": 2.0, "Say more about it.": 1.0}


def table(folder: Path, name: str, rows: dict) -> None:
    (folder / name).write_text("".join(f"{key} {rows[key]}\n" for key in sorted(rows)), encoding="utf-8")


def describe(folder: Path, llm: str, **prompt) -> None:
    """continuation.info.json as stage 2 leaves it."""
    values = vars(PromptConfig(instruction="Continue:", instructions=INSTRUCTIONS)) | prompt
    (folder / "continuation.info.json").write_text(json.dumps({"model": llm, "prompt": values}))


@pytest.fixture
def mixed(tmp_path, tiny_llm) -> Path:
    """Sixteen utterances, all but the last with a continuation: pieces of a flac recording and of one channel of a
    stereo recording, whole wav and flac files, and an entry of an archive."""
    folder, audio, generator = tmp_path / "data/mixed", tmp_path / "audio", np.random.default_rng(7)
    folder.mkdir(parents=True)
    audio.mkdir()

    def noise(seconds, channels=1):
        return (generator.standard_normal((int(16000 * seconds), channels)) * 0.1).clip(-1, 1)

    soundfile.write(audio / "long.flac", noise(8), 16000)
    soundfile.write(audio / "stereo.wav", noise(8, 2), 16000, subtype="PCM_24")
    soundfile.write(audio / "whole.wav", noise(1.1), 16000)
    soundfile.write(audio / "whole.flac", noise(0.9), 16000)
    (audio / "a.ark").write_bytes(b"u14 " + (audio / "whole.wav").read_bytes())
    table(folder, "wav.scp", {"long": audio / "long.flac", "stereo": audio / "stereo.wav", "wav": audio / "whole.wav",
                              "flac": audio / "whole.flac", "ark": f"{audio}/a.ark:4"})
    table(folder, "reco2channel", {"stereo": 1})
    segments = {f"u{i:02d}": f"{'long' if i < 6 else 'stereo'} {i % 6 + 0.1:.3f} {i % 6 + 0.9 + i / 60:.3f}"
                for i in range(12)}
    segments |= {"u12": "wav 0 -1", "u13": "flac 0 -1", "u14": "ark 0 -1", "u15": "wav 0.2 0.9"}
    table(folder, "segments", segments)
    ids = sorted(segments)
    table(folder, "text", {utt_id: TEXTS[i % len(TEXTS)] for i, utt_id in enumerate(ids)})
    table(folder, "utt2spk", {utt_id: f"s{i % 3}" for i, utt_id in enumerate(ids)})
    seconds = {f"u{i:02d}": 0.8 + i / 60 for i in range(12)} | {"u12": 1.1, "u13": 0.9, "u14": 1.1, "u15": 0.7}
    table(folder, "utt2dur", {utt_id: f"{value:.4f}" for utt_id, value in seconds.items()})
    table(folder, "continuation", {utt_id: json.dumps(TEXTS[(i + 3) % len(TEXTS)])
                                   for i, utt_id in enumerate(ids[:-1])})
    table(folder, "utt2domain", {utt_id: "ab"[i % 2] for i, utt_id in enumerate(ids)})
    table(folder, "word_times", {utt_id: "0.1 0.4 word" for utt_id in ids})
    describe(folder, tiny_llm)
    return folder


@pytest.fixture
def prompt(tiny_llm) -> Prompt:
    return Prompt(load_tokenizer(tiny_llm), PromptConfig(instruction="Continue:", instructions=INSTRUCTIONS))


@pytest.fixture
def pack(mixed, prompt, tiny_llm, tmp_path):
    """pack(job, num_jobs, ...): what it says; shards of about four utterances."""
    def run(job=1, num_jobs=1, source=mixed, packed=tmp_path / "packed", prompt=prompt, shard_bytes=70_000):
        return Packing(source, packed, prompt, tiny_llm, shard_bytes).run(job, num_jobs)
    return run
