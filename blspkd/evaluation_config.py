"""What can be configured in stages 4 and 5: dataclasses, as in config.py."""

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from blspkd.config import Dtype
from blspkd.errors import ConfigError


@dataclass
class TaskConfig:
    """One instruction task of stage 4; references are `text.<task>`, or the transcript `text` where that is absent."""

    instruction: str = ""  # empty: by utterance, from the data directory's file `instruction`
    metrics: list = field(default_factory=list)  # names in blspkd/evaluation/scorers/__init__.py
    tags: dict[str, str] = field(default_factory=dict)  # in front of the instruction, {key: value} of the training's
    normalize: bool = True  # wer, cer and exact_match: lower case, no punctuation
    bleu_tokenize: str = "13a"  # sacreBLEU's tokenizer; zh, ja-mecab, ... for languages without spaces
    # scores also by the first word of the instruction, as tasks of their own: qa:who, qa:when
    by_first_word: bool = False
    sets: list = field(default_factory=list)  # test sets that have this task; empty: all of them


@dataclass
class DecodeConfig:
    """`conf/decode.yaml`: tasks and decoding options of stage 4."""

    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    means: dict[str, list] = field(default_factory=dict)  # further rows: the mean, e.g. exact match, of several tasks
    systems: list[Literal["text", "chance", "speech", "cascade"]] = field(
        default_factory=lambda: ["text", "chance", "speech"])
    transcripts: str = ""  # system cascade: folder of a recogniser's `text`; {set} stands for the set's name
    # system cascade: a data directory (data/train) whose text's style the transcripts get; empty: as they were written
    transcript_style: str = ""
    typed: str = ""  # folder whose decode_<task>_<set>.text agreement is measured with; empty: the experiment's own
    tags: dict[str, str] = field(default_factory=dict)  # of every task; what a task says itself comes first
    device: str = "auto"  # auto: the first GPU that is visible, else the CPU; or cpu, cuda, cuda:1 ...
    # of frozen weights; empty: the trained model's own, and float32 for an LLM by itself (--reads of stage 4)
    dtype: Literal["", "float32", "bfloat16", "float16"] = ""
    batch_size: int = 32  # at most this many utterances in a batch
    batch_seconds: float = 480.0  # at most this much audio in a batch, padding included
    part_size: int = 256  # utterances per part file: what a kill can cost
    max_new_tokens: int = 64
    num_beams: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    max_utterances: int = 0  # 0: all
    num_bootstrap: int = 1000
    num_examples: int = 3  # shown in RESULTS.md
    # scores of what counts tokens also of the utterances with as many speech tokens as transcript tokens, and of the
    # others, as tasks of their own: qa:tokens=right, qa:tokens=wrong
    by_count: bool = False
    snap: Literal["model", "none", "hard", "soft"] = "model"  # as model.snap (config.py) has it, or otherwise
    recount: int = -1  # as model.recount has it, or so many tokens more and fewer
    recount_by: Literal["model", "nearest", "llm"] = "model"  # as model.recount_by has it, or otherwise
    recount_weight: float = -1.0  # with recount_by: llm, as model.recount_weight; -1: as the model has it
    # silence: zeros in the place of all samples, a control: what is still right was guessed, or given away by lengths
    hears: Literal["speech", "silence"] = "speech"
    # speech tokens as the adapter counts them, or by another choice of its option `count` (models/adapters/cformer.py);
    # transcript: as many as the transcript has (an oracle)
    count: Literal["model", "transcript", "alpha", "ctc", "both", "posterior", "posterior_alpha"] = "model"

    def tasks_of(self, set_name: str) -> dict[str, TaskConfig]:
        """The tasks of this test set."""
        return {name: task for name, task in self.tasks.items() if not task.sets or set_name in task.sets}

    def __post_init__(self):
        for task in self.tasks:
            if ":" in task:
                raise ConfigError(f"tasks: '{task}' has a colon, which stands before a type of question (qa:who)")
        for name, tasks in self.means.items():
            wrong = [task for task in tasks if task not in self.tasks]
            if wrong or not tasks or name in self.tasks:
                raise ConfigError(f"means: '{name}' is a task itself" if name in self.tasks else
                                  f"means: {name}: '{wrong[0] if wrong else ''}' is no task")
        if "cascade" in self.systems and not self.transcripts:
            raise ConfigError("transcripts: the system cascade reads a recogniser's transcripts; name their folder "
                              "(stage 4 with --reads writes them)")
        for name in ("batch_size", "part_size", "max_new_tokens", "num_beams"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)} is less than 1")
        if self.count == "transcript" and self.recount > 0:
            raise ConfigError("recount: with count 'transcript' the number of tokens is known; leave it at -1")
        if self.num_bootstrap < 2:
            raise ConfigError(f"num_bootstrap: {self.num_bootstrap} draws give no interval; use 1000")


@dataclass
class TranscribeConfig:
    """How a speech recogniser transcribes a data directory."""

    device: str = "auto"  # auto: the first GPU that is visible, else the CPU; or cpu, cuda, cuda:1 ...
    dtype: Dtype = "float32"
    batch_size: int = 32  # utterances transcribed together
    part_size: int = 256  # utterances per part file: what a kill can cost
    language: str = ""  # multilingual Whisper only, e.g. en; empty: the model finds out
    task: Literal["", "transcribe", "translate"] = ""  # multilingual Whisper only; empty: transcribe
    num_beams: int = 1
    max_new_tokens: int = 0  # 0: what the model's own configuration says

    def __post_init__(self):
        for name in ("batch_size", "part_size", "num_beams"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)} is less than 1")


@dataclass
class BudgetConfig:
    """How much a comparison may cost."""

    max_steps: int = 0  # optimiser steps of every system; 0: what its own configuration says
    max_seeds: int = 0  # seeds per system at most; 0: as many as `systems` says
    max_utterances: int = 0  # of each test set; 0: all
    systems: list = field(default_factory=list)  # some of the comparison's systems; empty: all of them


@dataclass
class CompareConfig:
    """`conf/compare.yaml`: what stage 5 compares. Every system is a file conf/compare/<name>.yaml."""

    systems: dict[str, int]  # name -> number of seeds, in the order of the table
    reference: str = "blspkd"  # the system that the others are compared with
    chance: str = "blspkd"  # the system whose first run also hears other utterances; empty: none
    snapshots: list = field(default_factory=list)  # systems whose first run is also measured before its end
    # system -> its control, which lacks the one thing that should matter: their differences have a table of their own
    controls: dict[str, str] = field(default_factory=dict)
    budgets: dict[str, BudgetConfig] = field(default_factory=lambda: {"full": BudgetConfig()})

    def __post_init__(self):
        if self.reference not in self.systems:
            raise ConfigError(f"reference: '{self.reference}' is not one of systems: {', '.join(self.systems)}")
        for key, names in (("chance", [self.chance] if self.chance else []), ("snapshots", self.snapshots),
                           ("controls", [*self.controls, *self.controls.values()])):
            for name in names:
                if name not in self.systems:
                    raise ConfigError(f"{key}: '{name}' is not one of systems: {', '.join(self.systems)}")
        for budget, limit in self.budgets.items():
            for name in limit.systems:
                if name not in self.systems:
                    raise ConfigError(f"budgets.{budget}.systems: '{name}' is not one of systems: "
                                      f"{', '.join(self.systems)}")
            if limit.systems and self.reference not in limit.systems:
                raise ConfigError(f"budgets.{budget}.systems: the reference '{self.reference}' has to be among them")
        for name, seeds in self.systems.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9+_.-]*", name) or seeds < 1:
                raise ConfigError(f"systems: '{name}: {seeds}' is not a name (letters, digits, + - _ .) and a number "
                                  "of seeds, at least 1")

    def of_budget(self, budget: str) -> "CompareConfig":
        """What is compared on this budget, and nothing else."""
        limit = self.budgets[budget]
        systems = {name: seeds for name, seeds in self.systems.items() if name in limit.systems or not limit.systems}
        return replace(self, systems=systems, budgets={budget: limit},
                       chance=self.chance if self.chance in systems else "",
                       snapshots=[name for name in self.snapshots if name in systems],
                       controls={name: control for name, control in self.controls.items()
                                 if name in systems and control in systems})


@dataclass
class ReaderConfig:
    """A system of stage 5 that reads instead of listening: text, or a cascade."""

    system: str = ""
    reads: str = "transcript"  # or a speech recogniser (Hugging Face id or folder), whose transcript the LLM reads
    # options of DecodeConfig, e.g. {transcript_style: ""} for transcripts as the recogniser writes them
    inference: dict = field(default_factory=dict)


@dataclass
class OtherwiseConfig:
    """A system of stage 5 that is the trained models of another one, decoded otherwise or merged with others."""

    system: str = ""
    of: str = ""  # the other one
    phase: Literal["", "align"] = ""  # align: its model after the alignment, before the distillation
    inference: dict = field(default_factory=dict)  # options of DecodeConfig, e.g. {num_beams: 4}
    # what is mixed in (models/merging.py): another system that is trained, of the same seed, or `none`, the base models
    # as they are -> its weight; the rest of 1 is the weight of `of`; empty: nothing
    merge: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if not all(0 <= weight <= 1 for weight in self.merge.values()) or sum(self.merge.values()) > 1 + 1e-9:
            raise ConfigError(f"merge: {self.merge}: weights are from 0 to 1, and at most 1 together")
