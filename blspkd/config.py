"""What can be configured: flat dataclasses, a section of a YAML file each (`model:` ...; see config_file.py)."""

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from blspkd.errors import ConfigError

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass
class PromptConfig:
    """One chat turn: instruction and transcript (or speech) inside the LLM's own chat template."""

    instruction: str = "Continue the following text in a coherent and engaging style with less than 40 words."
    speech_position: Literal["after", "before"] = "after"  # where the input stands: behind the instruction, or before
    separator: str = "\n"  # between instruction and input
    system: str = ""  # system message; empty: whatever the template does without one
    template_args: dict = field(default_factory=dict)  # extra template variables, e.g. {enable_thinking: false}


@dataclass
class ContinuationConfig:
    """Stage 2: how the LLM continues the transcripts."""

    prompt: PromptConfig = field(default_factory=PromptConfig)
    max_new_tokens: int = 64
    do_sample: bool = True
    temperature: float = 1.0
    top_p: float = 1.0
    batch_size: int = 32  # utterances decoded together
    part_size: int = 512  # utterances per part file: what a kill can cost
    seed: int = 0
    dtype: Dtype = "float32"
    max_input_tokens: int = 512  # longer transcripts are skipped, and counted
    min_tokens: int = 1  # shorter continuations are dropped, and counted
    drop_unfinished: bool = False  # drop continuations without an end-of-turn token


@dataclass
class ModelConfig:
    """Speech encoder, adapter and LLM."""

    llm: str = ""  # Hugging Face id or folder
    speech_encoder: str = ""  # Hugging Face id or folder
    dtype: str = "float32"  # of the frozen weights; what is trained stays in float32
    attn_implementation: str = "sdpa"  # eager is faster for very small models on CPU
    pad_to_30s: bool = True  # Whisper's own regime; false: cut to the batch's real length
    share_prefix: bool = True  # training: keys and values of the prompt's prefix once, not in every row of every batch
    train_encoder: bool = False
    train_encoder_layers: int = -1  # with train_encoder: only the last n layers; -1: all of it
    adapter: str = "cformer"  # or "conv" (BLSP's subsampler)
    num_pre_cif_layers: int = 4
    num_post_cif_layers: int = 4
    adapter_heads: int = 8
    adapter_ffn_dim: int = 2048
    adapter_dropout: float = 0.0
    alpha_bias: float = -1.3  # start of the logit of alpha: sigmoid(-1.3) = 0.21 tokens per frame
    match_embedding_norm: bool = True  # fix the speech tokens' RMS to that of the LLM's embeddings
    count: str = "alpha"  # number of tokens at inference: the rounded sum of alpha, or "ctc": the counter's labels
    ctc_classes: int = 0  # token counter: a CTC head on the pre-CIF frames over this many classes; 0: none
    conv_layers: int = 3  # adapter "conv": stride-2 convolutions
    conv_bottleneck: int = 512  # adapter "conv": inner width of its bottleneck
    plora_rank: int = 0  # 0: no PLoRA
    plora_alpha: float = 32.0
    plora_dropout: float = 0.0
    plora_targets: str = "all-linear"  # or module names, comma-separated: q_proj,v_proj
    plora_positions: str = "speech"  # "all": plain LoRA, to compare with; it changes what the LLM does on text as well

    def __post_init__(self):
        _one_of("adapter", self.adapter, ("cformer", "conv"))
        _one_of("count", self.count, ("alpha", "ctc"))
        _one_of("plora_positions", self.plora_positions, ("speech", "all"))
        if self.count == "ctc" and self.ctc_classes < 1:
            raise ConfigError("count: ctc needs the counter that ctc_classes makes; 509 is a good size")
        if self.ctc_classes and self.adapter != "cformer":
            raise ConfigError(f"ctc_classes: adapter '{self.adapter}' has no token counter; set it to 0")
        _one_of("dtype", self.dtype, ("float32", "bfloat16", "float16"))


@dataclass
class LossConfig:
    """What is minimised: the sum of each term times its weight (arXiv 2405.19041: the first three, all 1)."""

    w_input: float = 1.0
    w_response: float = 1.0
    w_quantity: float = 1.0
    w_response_ce: float = 0.0  # BLSP's objective: cross-entropy on the continuation
    w_embedding: float = 0.0  # distance of every speech token from its text token's embedding
    w_ctc: float = 0.0  # token counter (model.ctc_classes)
    divergence: str = "forward_kl"  # KL(teacher || student); or reverse_kl, jsd
    jsd_beta: float = 0.5
    temperature: float = 2.0
    temperature_squared: bool = False  # multiply by T^2
    response_positions: str = "shifted"  # "released": the authors' code, one position too late
    chunk_mib: int = 0  # memory for one chunk of logits; 0: half of the output head's in float32, at least 96

    def __post_init__(self):
        _one_of("divergence", self.divergence, ("forward_kl", "reverse_kl", "jsd"))
        _one_of("response_positions", self.response_positions, ("shifted", "released"))
        if self.temperature <= 0:
            raise ConfigError(f"temperature: {self.temperature} is not a positive number")


def check_loss(loss: LossConfig, model: ModelConfig) -> None:
    """Raises ConfigError for a loss that this model cannot be trained with."""
    for name in ("w_input", "w_embedding"):
        if getattr(loss, name) and model.adapter != "cformer":
            raise ConfigError(f"{name}: needs as many speech tokens as text tokens, which adapter '{model.adapter}' "
                              f"does not give; set {name} to 0 or adapter to cformer")
    if loss.w_response_ce and loss.response_positions != "shifted":
        raise ConfigError("w_response_ce: cross-entropy needs response_positions 'shifted'")
    if not (loss.w_input or loss.w_response or loss.w_response_ce):
        raise ConfigError("w_input, w_response and w_response_ce are all 0: there is nothing to learn from")
    if bool(loss.w_ctc) != bool(model.ctc_classes):
        raise ConfigError(f"w_ctc is {loss.w_ctc} and model.ctc_classes {model.ctc_classes}: the token counter needs "
                          "both, or neither")


@dataclass
class DataConfig:
    """Which utterances are used, and how they are batched and augmented."""

    min_duration: float = 0.1  # seconds; shorter or longer utterances are left out, and counted
    max_duration: float = 30.0
    max_tokens: int = 512  # longest prompt + response in LLM tokens; longer ones are left out, and counted
    batch_utterances: int = 32  # at most this many in a batch
    batch_tokens: int = 8192  # at most this many LLM positions in a batch, padding included
    batch_seconds: float = 480.0  # at most this much audio in a batch, padding included
    num_workers: int = 1  # loading processes
    max_bad_ratio: float = 0.0  # share of utterances that may fail to load before training stops
    time_masks: int = 0  # SpecAugment: masks along time ...
    time_mask_seconds: float = 0.2  # ... each of at most this length
    frequency_masks: int = 0  # ... and along frequency
    frequency_mask_ratio: float = 0.2  # ... each of at most this share of the bins
    speed_factors: list = field(default_factory=list)  # speed perturbation, e.g. [0.9, 1.0, 1.1]
    noise_snr_db: list = field(default_factory=list)  # added white noise: [lowest, highest] SNR in dB; empty: none
    operations: list = field(default_factory=list)  # on the training set, e.g. [{name: filter, silence_db: -40}]

    def __post_init__(self):
        for name in ("batch_utterances", "batch_tokens", "batch_seconds", "max_duration", "max_tokens"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}: {getattr(self, name)} is not a positive number")
        if not all(isinstance(factor, (int, float)) and factor > 0 for factor in self.speed_factors):
            raise ConfigError(f"speed_factors: {self.speed_factors} are not all positive numbers")
        if self.noise_snr_db and len(self.noise_snr_db) != 2:
            raise ConfigError(f"noise_snr_db: {self.noise_snr_db} is not [lowest, highest]")


AUGMENTATIONS = ("time_masks", "frequency_masks", "speed_factors", "noise_snr_db")  # of DataConfig, off if 0 or empty


@dataclass
class TrainingConfig:
    """Optimisation, checkpoints and logging."""

    init_from: str = ""  # exp/<tag>/model: start from its trained weights; empty: a new adapter
    max_steps: int = -1  # optimiser steps; -1: num_epochs decides
    num_epochs: float = 1.0
    learning_rate: float = 1.0e-4
    encoder_learning_rate: float = 1.0e-5  # with model.train_encoder
    plora_learning_rate: float = 0.0  # 0: learning_rate
    warmup_steps: int = 1000
    schedule: str = "linear"  # any of transformers' schedules
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    gradient_accumulation: int = 1
    gradient_checkpointing: bool = False
    bf16: bool = False
    seed: int = 0
    log_steps: int = 50
    eval_steps: int = 0  # 0: only at the end
    save_steps: int = 1000
    keep_checkpoints: int = 2
    snapshot_steps: list = field(default_factory=list)  # after these, also write <output_dir>/snapshots/<step>/model
    average_checkpoints: int = 0  # the final model averages this many last checkpoints; 0: none
    cache_encoder_frames: bool = False  # frozen encoder, no augmentation: compute frames once and keep them on disk
    cache_teacher: bool = False  # compute the teacher's hidden states once and keep them on disk
    cache_dir: str = ""  # empty: <output_dir>/cache; may be removed at any time
    deepspeed: str = ""  # a DeepSpeed configuration file
    find_unused_parameters: bool = False


@dataclass
class TrainConfig:
    """`conf/train.yaml`. The prompt is not here: it is the one that stage 2 recorded beside the continuations."""

    system: str = "blspkd"  # this model's name in results.json
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self):
        if self.model.dtype == "float16":
            raise ConfigError("model.dtype: float16 cannot be trained with: the loss is a mean over all positions, and "
                              "each one's gradient falls below the smallest number of that type; use bfloat16, which "
                              "has the range of float32, or float32")
        if self.training.cache_encoder_frames:
            changing = [key for key, on in {
                "model.train_encoder": self.model.train_encoder,
                **{f"data.{name}": getattr(self.data, name) for name in AUGMENTATIONS}}.items() if on]
            if changing:
                raise ConfigError("cache_encoder_frames: frames differ from epoch to epoch because of "
                                  f"{' and '.join(changing)}; switch them off, or the cache")
        if self.training.cache_teacher and not (self.loss.w_input or self.loss.w_response):
            raise ConfigError("cache_teacher: w_input and w_response are 0, so there is no teacher; set it to false")
        check_loss(self.loss, self.model)


@dataclass
class TaskConfig:
    """One instruction task of stage 4; references are `text.<task>`, or the transcript `text` where that is absent."""

    instruction: str = ""  # empty: by utterance, from the data directory's file `instruction`
    metrics: list = field(default_factory=list)  # of bleu, chrf, exact_match, wer, cer
    normalize: bool = True  # wer, cer and exact_match: lower case, no punctuation
    bleu_tokenize: str = "13a"  # sacreBLEU's tokenizer; zh, ja-mecab, ... for languages without spaces
    # scores also by the first word of the instruction, as tasks of their own: qa:who, qa:when
    by_first_word: bool = False

    def __post_init__(self):
        for metric in self.metrics:
            _one_of("metrics", metric, ("bleu", "chrf", "exact_match", "wer", "cer"))


@dataclass
class DecodeConfig:
    """`conf/decode.yaml`: tasks and decoding options of stage 4."""

    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    means: dict[str, list] = field(default_factory=dict)  # further rows: the mean exact match of several tasks
    systems: list[Literal["text", "chance", "speech", "cascade"]] = field(
        default_factory=lambda: ["text", "chance", "speech"])
    transcripts: str = ""  # system cascade: folder of a recogniser's `text`; {set} stands for the set's name
    device: str = "auto"  # auto: the first GPU that is visible, else the CPU; or cpu, cuda, cuda:1 ...
    dtype: Dtype = "float32"  # of an LLM by itself (--reads of stage 4); a trained model has its own
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

    def __post_init__(self):
        for task in self.tasks:
            if ":" in task:
                raise ConfigError(f"tasks: '{task}' has a colon, which stands before a type of question (qa:who)")
        for name, tasks in self.means.items():
            wrong = [task for task in tasks if "exact_match" not in getattr(self.tasks.get(task), "metrics", ())]
            if wrong or not tasks or name in self.tasks:
                raise ConfigError(f"means: '{name}' is a task itself" if name in self.tasks else
                                  f"means: {name}: '{'' if not tasks else wrong[0]}' is no task with the metric "
                                  "exact_match")
        if "cascade" in self.systems and not self.transcripts:
            raise ConfigError("transcripts: the system cascade reads a recogniser's transcripts; name their folder "
                              "(stage 4 with --reads writes them)")
        for name in ("batch_size", "part_size", "max_new_tokens", "num_beams"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)} is less than 1")
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
    budgets: dict[str, BudgetConfig] = field(default_factory=lambda: {"full": BudgetConfig()})

    def __post_init__(self):
        if self.reference not in self.systems:
            raise ConfigError(f"reference: '{self.reference}' is not one of systems: {', '.join(self.systems)}")
        for key, names in (("chance", [self.chance] if self.chance else []), ("snapshots", self.snapshots)):
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
                       snapshots=[name for name in self.snapshots if name in systems])


@dataclass
class ReaderConfig:
    """A system of stage 5 that reads instead of listening: text, or a cascade."""

    system: str = ""
    reads: str = "transcript"  # or a speech recogniser (Hugging Face id or folder), whose transcript the LLM reads


@dataclass
class OtherwiseConfig:
    """A system of stage 5 that is the trained models of another one, decoded otherwise."""

    system: str = ""
    of: str = ""  # the other one
    inference: dict = field(default_factory=dict)  # options of DecodeConfig, e.g. {num_beams: 4}


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}: '{value}' is not one of {', '.join(allowed)}")
