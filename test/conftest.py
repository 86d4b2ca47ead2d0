"""Small models and data that many tests share; everything is made here, nothing is downloaded."""

import importlib.util
import json
import os
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import numpy as np
import pytest
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

torch.set_num_threads(1)
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")

def load_module(name: str):
    """A module of this folder that holds no tests."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def load_helper() -> Callable:
    return load_module


@pytest.fixture(scope="session")
def warm() -> Iterator[Path]:
    """A virtual environment, as recipes and tests see it, whose `bin/python` starts in milliseconds."""
    with load_module("warm_python").serve() as venv:
        yield venv


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """The environment of a Slurm of two nodes that runs for the tests."""
    helper = load_module("slurm_cluster")
    if reason := helper.missing():
        pytest.skip(reason)
    try:
        with helper.cluster() as configuration:
            yield {**os.environ, "SLURM_CONF": str(configuration), "PATH": helper.PATHS}
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def vllm_stand_in(tmp_path_factory) -> str:
    """An interpreter of an environment of its own, in which `vllm` is the stand-in of test/vllm/stand_in."""
    folder = tmp_path_factory.mktemp("vllm")
    venv.create(folder, symlinks=True)
    [packages] = folder.glob("lib/*/site-packages")
    ours = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "stand_in.pth").write_text("\n".join([str(Path(__file__).parent / "vllm" / "stand_in"), *ours]))
    return str(folder / "bin" / "python")


CHAT_TEMPLATE = ("{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
                 "{% if add_generation_prompt %}<|assistant|>{% endif %}")
SENTENCES = ["the farmer sold six bags", "a nurse saw the old house", "we found two red cats in the park",
             "she reads a book on monday", "the pilot bought a car", "they ate nine cakes at noon"]


def make_tokenizer(folder) -> str:
    """A byte-level BPE tokenizer with a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>",
                                   additional_special_tokens=special[1:4])
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory) -> str:
    """Folder of a random two-layer Llama with a tokenizer and a chat template."""
    folder = tmp_path_factory.mktemp("llm")
    make_tokenizer(folder)
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=400, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
                         initializer_range=0.2, bos_token_id=None, eos_token_id=4, pad_token_id=0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory) -> str:
    """Folder of a random two-layer Whisper encoder with a 2-second window of 100 frames per second."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(2)
    config = WhisperConfig(d_model=24, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
                           decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=20,
                           max_source_positions=100, max_target_positions=16, vocab_size=32, pad_token_id=0,
                           bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None,
                           begin_suppress_tokens=None, init_std=0.2)
    WhisperModel(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=20, chunk_length=2).save_pretrained(folder)
    return str(folder)


def write_data_dir(folder, count: int = 6, rate: int = 16000, seed: int = 0) -> str:
    """A Kaldi data directory of `count` short noises with transcripts, durations and continuations."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    tables = {name: [] for name in ("wav.scp", "text", "utt2spk", "utt2dur", "continuation", "spk2utt")}
    for i in range(count):
        utt_id, seconds = f"spk{i % 2}-utt{i:03d}", float(generator.uniform(0.6, 1.6))
        samples = generator.standard_normal(int(seconds * rate)) * 0.1
        soundfile.write(folder / f"{utt_id}.wav", samples, rate, subtype="PCM_16")
        sentence = SENTENCES[i % len(SENTENCES)]
        tables["wav.scp"].append(f"{utt_id} {folder}/{utt_id}.wav")
        tables["text"].append(f"{utt_id} {sentence}")
        tables["utt2spk"].append(f"{utt_id} {utt_id[:4]}")
        tables["utt2dur"].append(f"{utt_id} {len(samples) / rate:.4f}")
        tables["continuation"].append(f"{utt_id} {json.dumps(SENTENCES[(i + 1) % len(SENTENCES)])}")
    for speaker in ("spk0", "spk1"):
        ids = sorted(row.split()[0] for row in tables["text"] if row.startswith(speaker))
        if ids:
            tables["spk2utt"].append(f"{speaker} {' '.join(ids)}")
    for name, rows in tables.items():
        (folder / name).write_text("".join(f"{row}\n" for row in sorted(rows)))
    return str(folder)


def write_info(folder, llm: str) -> None:
    """continuation.info.json as stage 2 leaves it."""
    prompt = {"instruction": "Continue:", "speech_position": "after", "separator": "\n", "system": "",
              "template_args": {}}
    (folder / "continuation.info.json").write_text(json.dumps({"model": llm, "prompt": prompt}))


@pytest.fixture
def data_dir(tmp_path, tiny_llm) -> str:
    """A training directory with continuations written by `tiny_llm`."""
    folder = write_data_dir(tmp_path / "data" / "train", count=12)
    write_info(tmp_path / "data" / "train", tiny_llm)
    return folder


# A small Kaldi data directory, whole and in order, that tests break in their own ways.
IDS = ["ann-1", "ann-2", "bob-1", "bob-2", "bob-3", "cem-1"]


def write_lines(file: Path, lines: str | bytes | list[str] | None) -> None:
    """Write lines or raw contents; None removes the file."""
    if lines is None:
        file.unlink(missing_ok=True)
    elif isinstance(lines, bytes):
        file.write_bytes(lines)
    else:
        file.write_text(lines if isinstance(lines, str) else "".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.fixture
def make_dir(tmp_path) -> Callable[..., Path]:
    """make_dir(name="train", **files): six utterances of three speakers; `files` replaces or adds (None: removes)."""
    audio = tmp_path / "audio"
    audio.mkdir()
    for index, utt_id in enumerate(IDS):
        samples = np.sin(np.arange(1600 * (index + 1)) / 9).astype(np.float32) / 3
        soundfile.write(audio / f"{utt_id}.wav", samples, 16000, subtype="PCM_16")

    def make(name: str = "train", **files) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        standard = {
            "wav.scp": [f"{utt_id} {audio}/{utt_id}.wav" for utt_id in IDS],
            "text": [f"{utt_id} some words of {utt_id}" for utt_id in IDS],
            "utt2spk": [f"{utt_id} {utt_id[:3]}" for utt_id in IDS],
            "spk2utt": ["ann ann-1 ann-2", "bob bob-1 bob-2 bob-3", "cem cem-1"],
        }
        replaced = {key.replace("__", "."): value for key, value in files.items()}
        for key, lines in (standard | replaced).items():
            write_lines(folder / key, lines)
        return folder

    return make


@pytest.fixture
def make_rich_dir(make_dir) -> Callable[..., Path]:
    """The same with every optional file, and `segments` that cut two recordings."""
    def make(name: str = "rich", **files) -> Path:
        optional = {
            "segments": [f"{utt_id} {'rec1' if index < 3 else 'rec2'} {index % 3 * 0.1:g} {index % 3 * 0.1 + 0.1:g}"
                         for index, utt_id in enumerate(IDS)],
            "utt2dur": [f"{utt_id} 0.1000" for utt_id in IDS],
            "text__translate": [f"{utt_id} Wörter {utt_id}" for utt_id in IDS],
            "text__qa": [f"{utt_id} yes" for utt_id in IDS[::2]],
            "instruction": [f"{utt_id} Repeat:  twice" for utt_id in IDS],
            "continuation": [f'{utt_id} "and so\\non"' for utt_id in IDS[1:]],
            "word_times": [f"{utt_id} 0.0 0.05 word" for utt_id in IDS],
            "utt2lang": [f"{utt_id} en" for utt_id in IDS],
            "spk2gender": ["ann f", "bob m", "cem m"],
            "emotion": [f"{utt_id} neutral" for utt_id in IDS],
            "README": "made by hand\n",
            "reco2channel": ["rec1 0", "rec2 0"],
        }
        folder = make_dir(name, **(optional | files))
        audio = folder.parent / "audio"
        soundfile.write(audio / "rec1.wav", np.full(4800, 0.1), 16000)
        soundfile.write(audio / "rec2.wav", np.full(4800, 0.2), 16000)
        if "wav__scp" not in files:
            write_lines(folder / "wav.scp", [f"rec1 {audio}/rec1.wav", f"rec2 {audio}/rec2.wav"])
        return folder

    return make
