"""Decode one test set with one model: all tasks, and the systems "text", "cascade", "speech", "chance", in one process.

"text" has the transcript typed in (the upper bound), "cascade" what a recogniser wrote, "speech" hears the utterance,
"chance" hears another utterance that says something else while the reference stays (what the language model gets right
by guessing).
"""

import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blspkd.config import ModelConfig, PromptConfig
from blspkd.data.tags import tagged
from blspkd.errors import ConfigError
from blspkd.evaluation.decode_dir import DecodeDir
from blspkd.evaluation.eval_set import TYPED, EvalSet
from blspkd.evaluation_config import DecodeConfig
from blspkd.files import contents_digests, text_digest
from blspkd.kaldi.parts import Fingerprint, Job, run_parts
from blspkd.models.base_records import FILE as BASE_MODELS
from blspkd.models.listener import GenerationOptions, Listener
from blspkd.models.model_folder import locate_base_models, read_config

log = logging.getLogger(__name__)
SYSTEM_ORDER = ("text", "cascade", "speech", "chance")  # chance last: it can often be read off speech's answers


def decode_set(load_listener: Callable[[], Listener], model_fingerprint: Fingerprint, data_dir: str | Path,
               exp_dir: str | Path, config: DecodeConfig) -> None:
    """Write `exp_dir/decode_<task>_<set>[.<text|chance|cascade>]/` for every task and system of `config`.

    load_listener: called only if something is left to decode. model_fingerprint: what tells its model from others.
    """
    eval_set = EvalSet.read(data_dir, config)
    folders = _decode_dirs(eval_set, model_fingerprint, exp_dir, config)
    todo = [folder for folder in folders if not folder.is_finished()]
    if not todo:
        log.info("%s: everything is decoded already", eval_set.path)
        return
    derived = [folder for folder in todo if _reads_off_speech(folder, config)]
    # A model or a recording that cannot be used should be known before anything is written.
    listener = load_listener() if len(todo) > len(derived) else None
    jobs = []
    for system in SYSTEM_ORDER:
        directories = [folder for folder in todo if folder.system == system and folder not in derived]
        if directories:
            decoder = _Decoder(eval_set, config, listener, system)
            hearing = () if system in TYPED else (decoder.load, decoder.listen)  # once for all tasks
            work = {folder: partial(decoder.answer, folder.task) for folder in directories}
            jobs.append(Job(decoder.plan, work, *hearing))
    speech = {folder.task: folder for folder in folders if folder.system == "speech"}
    jobs += [Job([[list(eval_set.utterances)]], {folder: partial(_chance_rows, eval_set, speech[folder.task])})
             for folder in derived]
    run_parts(f"decode {eval_set.name}", jobs)


def fingerprint_model(model_dir: str | Path, identify: Callable[[str], object], dtype: str = "") -> Fingerprint:
    """What tells the trained model from others: its own files, and what `identify` says of the two base models.

    dtype: of the frozen weights, where it is not the model's own.

    Raises ModelError where there is no trained model, or its base models are not found.
    """
    folder = Path(model_dir)
    base = locate_base_models(folder, read_config(folder).model)
    files = {name: digest for name, digest in contents_digests([folder]).items() if Path(name).name != BASE_MODELS}
    return {"model": files, "llm": identify(base.llm), "speech encoder": identify(base.speech_encoder),
            **({"dtype": dtype} if dtype not in ("", base.dtype) else {})}


def fingerprint_text_llm(model: ModelConfig, prompt: PromptConfig, identify: Callable[[str], object]) -> Fingerprint:
    """The same for an LLM alone, which only reads."""
    return {"prompt": dataclasses.asdict(prompt), "dtype": model.dtype, "llm": identify(model.llm)}


class _Decoder:
    """A loaded model at work on one set, as one system."""

    def __init__(self, eval_set: EvalSet, config: DecodeConfig, listener: Listener, system: str):
        self.eval_set, self.config, self.listener, self.system = eval_set, config, listener, system
        self.options = GenerationOptions(**_options(config))
        self.plan = eval_set.plan(system, config)
        # With sampling, every batch has its own seed: a restarted run draws what an unbroken one would have.
        self.places = {batch[0]: f"{part} {number}" for part, batches in enumerate(self.plan)
                       for number, batch in enumerate(batches)}

    def load(self, batch: list[str]) -> tuple[list[np.ndarray], list[int] | None]:
        """Waveforms of what is heard, and how many speech tokens each shall become; None: the model decides."""
        rate = self.listener.extractor.sampling_rate
        heard = [self.eval_set.heard(self.system, utt_id) for utt_id in batch]
        n_tokens = [self._true_count(utt_id) for utt_id in heard] if self.config.count == "transcript" else None
        waveforms = [self.eval_set.load(utt_id, rate) for utt_id in heard]
        if self.config.hears == "silence":  # the recordings are read nevertheless: their lengths have to be the same
            waveforms = list(map(np.zeros_like, waveforms))
        return waveforms, n_tokens

    def listen(self, loaded: tuple[list[np.ndarray], list[int] | None]) -> list[Tensor]:
        waveforms, n_tokens = loaded
        return self.listener.listen(waveforms, snap=self.config.snap, recount=self.config.recount, n_tokens=n_tokens)

    def _true_count(self, utt_id: str) -> int:
        """Tokens of the transcript, in every task's turn. Raises ConfigError where they differ: it is heard once."""
        transcript = self.eval_set.utterances[utt_id].text
        counts = {task: self._count_tokens(transcript, instructions[utt_id])
                  for task, instructions in self.eval_set.instructions.items()}
        if len(set(counts.values())) > 1:
            raise ConfigError(f"count: transcript: {self.eval_set.path}: the transcript of {utt_id} has another number "
                              f"of tokens in another task's turn ({counts}); decode these tasks apart")
        return next(iter(counts.values()))

    def answer(self, task: str, batch: list[str], speech: list[Tensor] | None) -> list[dict]:
        """Rows of hyp.jsonl for `batch`; speech: tokens [n, D] of what is heard, None for systems that read."""
        if self.config.do_sample:
            key = f"{self.config.seed} {task} {self.system} {self.places[batch[0]]}"
            torch.manual_seed(int(text_digest(key)[:14], 16))
        instructions = [self.eval_set.instructions[task][utt_id] for utt_id in batch]
        tags = self.eval_set.tasks[task].tags
        asked = [tagged(instruction, tags.values()) for instruction in instructions]
        if speech is None:
            typed = [self.eval_set.typed(self.system, utt_id) for utt_id in batch]
            answers = self.listener.generate_from_text(typed, asked, self.options)
        else:
            answers = self.listener.reply(speech, asked, self.options)
        rows = []
        for utt_id, instruction, question, answer in zip(batch, instructions, asked, answers, strict=True):
            transcript = self.eval_set.utterances[utt_id].text
            rows.append({
                "utt_id": utt_id,
                "instruction": instruction,
                "transcript": transcript,
                "reference": self.eval_set.references[task][utt_id],
                "hypothesis": answer.text,
                "n_tokens": answer.n_tokens,
                "n_tokens_reference": self._count_tokens(transcript, question),
                "source_utt_id": self.eval_set.heard(self.system, utt_id),
                "finished": answer.finished,
                **({"tags": tags} if tags else {}),
                **({"recognised": self.eval_set.typed(self.system, utt_id)} if self.system == "cascade" else {}),
            })
        return rows

    def _count_tokens(self, transcript: str, instruction: str) -> int | None:
        return len(self.listener.prompt.split(transcript, instruction).input) if transcript else None


def _decode_dirs(eval_set: EvalSet, model: Fingerprint, exp_dir: str | Path, config: DecodeConfig) -> list[DecodeDir]:
    options = {**_options(config), "seed": config.seed, "max_utterances": config.max_utterances}
    usual = {"snap": "model", "recount": -1, "recount_by": "model", "recount_weight": -1.0, "count": "model",
             "hears": "speech"}
    listening = {key: getattr(config, key) for key, value in usual.items() if getattr(config, key) != value}
    batches = {name: getattr(config, name) for name in ("batch_size", "batch_seconds", "part_size")}
    directories = []
    for system in SYSTEM_ORDER:
        for task, task_config in eval_set.tasks.items() if system in config.systems else ():
            data = eval_set.files[task] | (eval_set.recognised.files if system == "cascade" else {})
            fingerprint = {**model, "data": data, "instruction": task_config.instruction,
                           **({"tags": task_config.tags} if task_config.tags else {}),
                           "options": options | (listening if system not in TYPED else {}), "batching": batches}
            directories.append(DecodeDir(exp_dir, task, eval_set.name, system, fingerprint))
    return directories


def _options(config: DecodeConfig) -> dict[str, object]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(GenerationOptions)}


def _reads_off_speech(folder: DecodeDir, config: DecodeConfig) -> bool:
    """With one instruction for all utterances, hearing another one gives the answer that the other one got."""
    return (folder.system == "chance" and "speech" in config.systems and not config.do_sample
            and bool(config.tasks[folder.task].instruction))


def _chance_rows(eval_set: EvalSet, speech: DecodeDir, utt_ids: list[str], _: None) -> list[dict]:
    """What "chance" answers, from the finished rows of "speech"."""
    by_id = {row["utt_id"]: row for row in speech.rows()}
    rows = []
    for utt_id in utt_ids:
        source = eval_set.heard("chance", utt_id)
        heard = {key: by_id[source][key] for key in ("hypothesis", "n_tokens", "finished")}
        rows.append({**by_id[utt_id], **heard, "source_utt_id": source})
    return rows
