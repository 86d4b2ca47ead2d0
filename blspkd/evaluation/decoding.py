"""Decode one test set with one model: all tasks, and the systems "text", "cascade", "speech", "chance", in one process.

"text" has the transcript typed in (the upper bound), "cascade" what a recogniser wrote, "speech" hears the utterance,
"chance" hears another utterance that says something else while the reference stays (what the language model gets right
by guessing). Work is saved in
parts; a part is always made of the same batches, so a run that was killed and started again gives the same files.
"""

import dataclasses
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blspkd.config import DecodeConfig, ModelConfig, PromptConfig
from blspkd.config_file import load_config
from blspkd.errors import ConfigError, ModelError
from blspkd.evaluation.cascade import transcripts_dir
from blspkd.evaluation.decode_dir import DecodeDir, Fingerprint, fingerprint_files
from blspkd.evaluation.eval_set import TYPED, EvalSet, Parts
from blspkd.models.listener import GenerationOptions, Listener
from blspkd.models.speech_llm import SpeechLlmConfig
from blspkd.progress import progress_bar

log = logging.getLogger(__name__)
SYSTEM_ORDER = ("text", "cascade", "speech", "chance")  # chance last: it can often be read off speech's answers
DATA_FILES = ("wav.scp", "segments", "reco2channel", "utt2dur", "text", "instruction")


def decode_set(load_listener: Callable[[], Listener], model_fingerprint: Fingerprint, data_dir: str | Path,
               exp_dir: str | Path, config: DecodeConfig) -> None:
    """Write `exp_dir/decode_<task>_<set>[.<text|chance|cascade>]/` for every task and system of `config`.

    load_listener: called only if something is left to decode. model_fingerprint: what tells its model from others.
    """
    eval_set = EvalSet.read(data_dir, config)
    directories = _decode_dirs(eval_set, model_fingerprint, exp_dir, config)
    todo = [directory for directory in directories if not directory.is_finished()]
    if not todo:
        log.info("%s: everything is decoded already", eval_set.path)
        return
    derived = [directory for directory in todo if _reads_off_speech(directory, config)]
    decoded = [directory for directory in todo if directory not in derived]
    # A model or a recording that cannot be used should be known before anything is written.
    run = _Run(eval_set, config, load_listener()) if decoded else None
    parts = {system: eval_set.parts(system, config) for system in {directory.system for directory in decoded}}
    for directory in todo:
        directory.start()
    if run:
        run.decode(decoded, parts)
    for directory in derived:
        speech = DecodeDir(exp_dir, directory.task, eval_set.name, "speech", {})
        directory.finish(_chance_rows(eval_set, speech.rows()))


def fingerprint_model(model_dir: str | Path, identify: Callable[[str], object]) -> Fingerprint:
    """What tells the trained model from others: its own files, and what `identify` says of the two base models.

    Raises ModelError where there is no trained model.
    """
    path = Path(model_dir) / "config.yaml"
    if not path.is_file():
        raise ModelError(f"{model_dir}: there is no trained model here (no config.yaml); run stage 3 first")
    base = load_config(SpeechLlmConfig, path).model
    return {"model": fingerprint_files([Path(model_dir)]), "llm": identify(base.llm),
            "speech encoder": identify(base.speech_encoder)}


def fingerprint_text_llm(model: ModelConfig, prompt: PromptConfig, identify: Callable[[str], object]) -> Fingerprint:
    """The same for an LLM alone, which only reads."""
    return {"prompt": dataclasses.asdict(prompt), "dtype": model.dtype, "llm": identify(model.llm)}


def choose_device(name: str) -> str:
    """"auto" -> "cuda" where a GPU is visible, else "cpu". Raises ConfigError for a GPU that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled with CUDA
        raise ConfigError(f"device: '{name}' cannot be used ({str(error).splitlines()[0]}); try auto or cpu") from None
    return name


class _Run:
    """A loaded model at work on one set."""

    def __init__(self, eval_set: EvalSet, config: DecodeConfig, listener: Listener):
        self.eval_set, self.config, self.listener = eval_set, config, listener
        self.options = GenerationOptions(**_options(config))

    def decode(self, directories: list[DecodeDir], parts: dict[str, Parts]) -> None:
        """Decode what is missing of `directories`; parts: by system, the same for all tasks."""
        total = sum(len(batch) for directory in directories for index, part in enumerate(parts[directory.system])
                    if not directory.has_part(index, part) for batch in part)
        with progress_bar(f"decode {self.eval_set.name}", total=total, unit="utt") as bar:
            for system in SYSTEM_ORDER:
                own = [directory for directory in directories if directory.system == system]
                for index, part in enumerate(parts.get(system, [])):
                    missing = [directory for directory in own if not directory.has_part(index, part)]
                    if missing:
                        self._decode_part(index, part, missing, bar.update)
                for directory in own:
                    directory.finish()

    def _decode_part(self, index: int, batches: list[list[str]], directories: list[DecodeDir],
                     advance: Callable[[int], object]) -> None:
        """Decode `batches` for all `directories` (tasks of one system): each utterance is heard once for all tasks."""
        system = directories[0].system
        rows: dict[str, list[dict]] = {directory.task: [] for directory in directories}
        for number, (batch, waveforms) in enumerate(_prefetched(lambda batch: self._load(system, batch), batches)):
            speech = None if waveforms is None else self.listener.listen(waveforms)
            for directory in directories:
                self._seed(directory, index, number)
                rows[directory.task] += self._answer(directory.task, system, batch, speech)
                advance(len(batch))
        for directory in directories:
            directory.write_part(index, rows[directory.task])

    def _load(self, system: str, batch: list[str]) -> list[np.ndarray] | None:
        if system in TYPED:
            return None
        rate = self.listener.extractor.sampling_rate
        return [self.eval_set.load(self.eval_set.heard(system, utt_id), rate) for utt_id in batch]

    def _answer(self, task: str, system: str, batch: list[str], speech: list[torch.Tensor] | None) -> list[dict]:
        """Rows of hyp.jsonl for `batch`; speech: tokens [n, D] of what each utterance's place is taken by, or None."""
        instructions = [self.eval_set.instructions[task][utt_id] for utt_id in batch]
        if speech is None:
            typed = [self.eval_set.typed(system, utt_id) for utt_id in batch]
            answers = self.listener.generate_from_text(typed, instructions, self.options)
        else:
            answers = self.listener.reply(speech, instructions, self.options)
        rows = []
        for utt_id, instruction, answer in zip(batch, instructions, answers, strict=True):
            transcript = self.eval_set.utterances[utt_id].text
            rows.append({
                "utt_id": utt_id,
                "instruction": instruction,
                "transcript": transcript,
                "reference": self.eval_set.references[task][utt_id],
                "hypothesis": answer.text,
                "n_tokens": answer.n_tokens,
                "n_tokens_reference": self._count_tokens(transcript, instruction),
                "source_utt_id": self.eval_set.heard(system, utt_id),
                "finished": answer.finished,
                **({"recognised": self.eval_set.recognised[utt_id]} if system == "cascade" else {}),
            })
        return rows

    def _count_tokens(self, transcript: str, instruction: str) -> int | None:
        return len(self.listener.prompt.split(transcript, instruction).input) if transcript else None

    def _seed(self, directory: DecodeDir, part: int, batch: int) -> None:
        """With sampling, every batch has its own seed: a restarted run draws what an unbroken one would have."""
        if not self.config.do_sample:
            return
        key = f"{self.config.seed} {directory.task} {directory.system} {part} {batch}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big"))


def _decode_dirs(eval_set: EvalSet, model: Fingerprint, exp_dir: str | Path, config: DecodeConfig) -> list[DecodeDir]:
    data = fingerprint_files(eval_set.path / name for name in DATA_FILES if (eval_set.path / name).exists())
    options = {**_options(config), "seed": config.seed, "max_utterances": config.max_utterances}
    batches = {name: getattr(config, name) for name in ("batch_size", "batch_seconds", "part_size")}
    directories = []
    for system in SYSTEM_ORDER:
        for task, task_config in config.tasks.items() if system in config.systems else ():
            references = fingerprint_files(path for path in [eval_set.path / f"text.{task}"] if path.exists())
            if system == "cascade":
                transcripts = transcripts_dir(config.transcripts, eval_set.name)
                references |= {"recognised": fingerprint_files([transcripts / "text"])}
            fingerprint = {**model, "data": {**data, **references}, "instruction": task_config.instruction,
                           "options": options, "batching": batches}
            directories.append(DecodeDir(exp_dir, task, eval_set.name, system, fingerprint))
    return directories


def _options(config: DecodeConfig) -> dict[str, object]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(GenerationOptions)}


def _reads_off_speech(directory: DecodeDir, config: DecodeConfig) -> bool:
    """With one instruction for all utterances, hearing another one gives the answer that the other one got."""
    return (directory.system == "chance" and "speech" in config.systems and not config.do_sample
            and bool(config.tasks[directory.task].instruction))


def _chance_rows(eval_set: EvalSet, speech_rows: list[dict]) -> Iterator[dict]:
    by_id = {row["utt_id"]: row for row in speech_rows}
    for utt_id, row in by_id.items():
        source = eval_set.heard("chance", utt_id)
        heard = {key: by_id[source][key] for key in ("hypothesis", "n_tokens", "finished")}
        yield {**row, **heard, "source_utt_id": source}


def _prefetched(load: Callable[[list[str]], Any], batches: Iterable[list[str]]) -> Iterator[tuple[list[str], Any]]:
    """(batch, load(batch)) for all batches in order; the next one is read while this one is decoded."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead: deque = deque()
        for batch in batches:
            ahead.append((batch, pool.submit(load, batch)))
            if len(ahead) > 1:
                ready, future = ahead.popleft()
                yield ready, future.result()
        while ahead:
            ready, future = ahead.popleft()
            yield ready, future.result()
