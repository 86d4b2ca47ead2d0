"""The start of a training, packed and not, on made-up corpora of any size."""

import functools
import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scale_row import Row

sys.path.append(str(Path(__file__).resolve().parents[2]))  # blspkd, also where it is not installed

SENTENCES = 1000  # different texts
SECONDS_BAR, MB_BAR = 10.0, 250.0  # with a million utterances


@dataclass
class Start:
    """What a process measured from the opening of its data to the first batch."""

    seconds: float
    cpu_seconds: float  # of the process: what it takes on a machine that does nothing else
    private_mb: float  # more than before, when the batch is there
    peak_mb: float  # the same, at most on the way
    epoch_seconds: float  # to plan one


def make_tokenizer(folder: Path) -> str:
    """A byte-level tokenizer with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<|user|>", "<|assistant|>", "<|end|>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(sentences(), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>",
                                   additional_special_tokens=["<|user|>", "<|assistant|>"])
    fast.chat_template = ("{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
                          "{% if add_generation_prompt %}<|assistant|>{% endif %}")
    fast.save_pretrained(folder)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return str(folder)


def make_encoder(folder: Path) -> str:
    """The settings of Whisper's features."""
    from transformers import WhisperFeatureExtractor

    WhisperFeatureExtractor().save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "whisper"}', encoding="utf-8")
    return str(folder)


def sentences() -> list[str]:
    """SENTENCES texts of 5 to 24 made-up words."""
    generator = np.random.default_rng(0)
    words = ["".join(generator.choice(list("aeioubdklmnprst"), size)) for size in generator.integers(2, 9, 300)]
    return [" ".join(generator.choice(words, size)) for size in generator.integers(5, 25, SENTENCES)]


def make_data_dir(folder: Path, utterances: int, llm: str) -> Path:
    """A data directory whose recordings are a tenth of a second long, whatever utt2dur says; tables are as large as
    real ones."""
    from blspkd.config import PromptConfig

    folder.mkdir(parents=True)
    generator = np.random.default_rng(1)
    audio = [folder / f"{number}.flac" for number in range(16)]
    for path in audio:
        soundfile.write(path, generator.standard_normal(1600) * 1e-2, 16000)
    texts, durations = sentences(), generator.gamma(4.0, 3.0, utterances).clip(0.5, 29)
    ids = [f"speaker{number // 1000:06d}-{number:09d}" for number in range(utterances)]
    rows = {"text": (texts[i % SENTENCES] for i in range(utterances)),
            "continuation": (json.dumps(texts[7 * i % SENTENCES]) for i in range(utterances)),
            "utt2spk": (utt_id[:13] for utt_id in ids), "utt2dur": map("{:.4f}".format, durations),
            "wav.scp": (str(audio[i % len(audio)]) for i in range(utterances))}
    for name, values in rows.items():
        with open(folder / name, "w", encoding="utf-8") as file:
            file.writelines(f"{utt_id} {value}\n" for utt_id, value in zip(ids, values, strict=True))
    with open(folder / "spk2utt", "w", encoding="utf-8") as file:
        file.writelines(f"{ids[i][:13]} {' '.join(ids[i:i + 1000])}\n" for i in range(0, utterances, 1000))
    (folder / "continuation.info.json").write_text(
        json.dumps({"model": llm, "prompt": vars(PromptConfig())}), encoding="utf-8")
    return folder


def make_packed(source: Path, packed: Path, llm: str, shard_bytes: int = 500_000_000) -> float:
    """Pack a directory of `make_data_dir`; returns the seconds. Every text and recording is looked at once."""
    from blspkd.data.packed import pack

    prompt = prompt_of(llm)
    prompt.split, prompt.response = functools.cache(prompt.split), functools.cache(prompt.response)
    plain, pack.encoded = pack.encoded, functools.cache(pack.encoded)
    began = time.perf_counter()
    try:
        pack.Packing(source, packed, prompt, llm, shard_bytes).run()
    finally:
        pack.encoded = plain
    return time.perf_counter() - began


def prompt_of(llm: str):
    """The Prompt of `make_data_dir`."""
    from blspkd.config import PromptConfig
    from blspkd.data.prompts import Prompt, load_tokenizer

    return Prompt(load_tokenizer(llm), PromptConfig())


def start(folder: str, llm: str, encoder: str, workers: int = 0) -> Start:
    """Do all that a training does with its data up to its first batch; for a new process."""
    from blspkd.config import DataConfig
    from blspkd.data.batching import BatchPlan, batches_per_epoch
    from blspkd.data.example_columns import prefixes, token_counts
    from blspkd.data.examples import ExampleDataset, make_examples
    from blspkd.data.features import FeatureExtractor
    from blspkd.data.packed.pack import is_packed
    from blspkd.data.packed.packed_dir import PackedDir
    from blspkd.data.packed.shard import arrow
    from blspkd.data.tags import known_tags
    from blspkd.kaldi.data_dir import KaldiDir, read_continuations
    from blspkd.training.loader import batch_loader

    config, prompt, extractor = DataConfig(num_workers=workers), prompt_of(llm), FeatureExtractor(encoder, False)
    arrow()
    with Peak() as peak:
        began, cpu = time.perf_counter(), time.process_time()
        if is_packed(folder):
            data = PackedDir(folder)
            data.check(prompt, llm)
            examples = data.select(config, True).examples
        else:
            examples = make_examples(KaldiDir.read(folder), read_continuations(Path(folder) / "continuation"), prompt,
                                     config).examples
        known_tags(examples), token_counts(examples), prefixes(examples)
        batches_per_epoch(examples, config, 0, 8)
        plan = BatchPlan(examples, config, 0, 100, 0, 8)
        dataset = ExampleDataset(examples, extractor, config, 0, augment=True)
        batch = next(iter(batch_loader(dataset, plan, workers)))
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        assert batch.utt_ids and not batch.errors, batch.errors
        remaining = private_mb() - peak.before
    began = time.perf_counter()
    plan.epoch(1)
    return Start(seconds, cpu, remaining, peak.value, time.perf_counter() - began)


class Peak:
    """The most private memory while a block runs, above that at its beginning, in MB; looked at every 20 ms."""

    def __enter__(self) -> "Peak":
        self.before, self.value, self._done = private_mb(), 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.02):
            self.value = max(self.value, private_mb() - self.before)


def private_mb() -> float:
    """Memory that no other process shares: neither mapped files nor what was inherited."""
    with open("/proc/self/smaps_rollup", encoding="utf-8") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_Dirty")) * 1024 / 1e6


def forget(folder: Path) -> None:
    """Ask the system to throw the files out of its page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def in_new_process(folder: Path, llm: str, encoder: str) -> Start:
    """`start`, where nothing has been allocated before."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(start, str(folder), llm, encoder).result()


def run(folder: Path, sizes: list[int], unpacked: int, llm: str) -> Iterator[Row]:
    """All rows, corpus by corpus."""
    encoder = make_encoder(folder / "encoder")
    for number in sizes:
        source, packed = make_data_dir(folder / "data", number, llm), folder / "packed"

        def row(what: str, value: float, unit: str, bar: float = 0.0, grows: bool = True, n: int = number) -> Row:
            return Row("start", what, value, unit, n, f"< {bar:g}" if bar and n == 1_000_000 else "", grows=grows)

        yield row("packing by one process, texts and recordings known before", make_packed(source, packed, llm), "s")
        yield row("size of the packed directory", sum(p.stat().st_size for p in packed.rglob("*")) / 1e6, "MB")
        warm = in_new_process(packed, llm, encoder)
        forget(packed)
        cold = in_new_process(packed, llm, encoder)
        yield row("packed: to the first batch", warm.seconds, "s", SECONDS_BAR)
        yield row("packed: to the first batch, files not in memory", cold.seconds, "s", SECONDS_BAR)
        yield row("packed: processor time until then", warm.cpu_seconds, "s")
        yield row("packed: private memory of a process with the first batch", warm.private_mb, "MB", MB_BAR)
        yield row("packed: private memory, at most until then", warm.peak_mb, "MB", MB_BAR)
        yield row("plan of an epoch", warm.epoch_seconds, "s")
        if number <= unpacked:
            plain = in_new_process(source, llm, encoder)
            yield row("data directory: to the first batch", plain.seconds, "s")
            yield row("data directory: processor time until then", plain.cpu_seconds, "s")
            yield row("data directory: private memory of a process with the first batch", plain.private_mb, "MB")
        shutil.rmtree(source)
        shutil.rmtree(packed)
