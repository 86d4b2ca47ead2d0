"""What can be configured: flat dataclasses, a section of a YAML file each (`model:` ...; see config_file.py)."""

from dataclasses import dataclass, field
from typing import Literal

from blspkd.errors import ConfigError

Dtype = Literal["float32", "bfloat16", "float16"]
Switch = Literal[True, False, "auto"]


@dataclass
class PromptConfig:
    """One chat turn: instruction and transcript (or speech) inside the LLM's own chat template."""

    instruction: str = "Continue the following text in a coherent and engaging style with less than 40 words."
    # several: {instruction: weight}; each utterance has one of them, by its id, in stages 2 and 3; empty: all the one
    instructions: dict[str, float] = field(default_factory=dict)
    speech_position: Literal["after", "before"] = "after"  # where the input stands: behind the instruction, or before
    separator: str = "\n"  # between instruction and input
    # system message; empty: whatever the template does without one, which may be to write its own; none: no such turn
    system: str = ""
    template_args: dict = field(default_factory=dict)  # extra template variables, e.g. {enable_thinking: false}

    def __post_init__(self):
        if any(not weight > 0 for weight in self.instructions.values()):
            raise ConfigError(f"instructions: weights are positive numbers: {self.instructions}")


@dataclass
class TrainedPrompt(PromptConfig):
    """The prompt of a model whose training put tags in front of the instruction (data/tags.py)."""

    tags: dict[str, list] = field(default_factory=dict)  # {key: the values that it has seen}, in their order


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
    max_utterances: int = 0  # of each set, drawn by the seed: a distillation behind an alignment needs few; 0: all
    max_input_tokens: int = 512  # longer transcripts are skipped, and counted
    min_tokens: int = 1  # shorter continuations are dropped, and counted
    drop_unfinished: bool = False  # drop continuations without an end-of-turn token
    engine: str = "huggingface"  # what runs the LLM: a name in blspkd/generation/engines/__init__.py
    engine_options: dict = field(default_factory=dict)  # `Options` in the engine's file


@dataclass
class ModelConfig:
    """Speech encoder, adapter and LLM."""

    llm: str = ""  # Hugging Face id or folder
    speech_encoder: str = ""  # Hugging Face id or folder
    dtype: Dtype = "float32"  # of the frozen weights; what is trained stays in float32
    attn_implementation: str = "sdpa"  # eager is faster for very small models on CPU
    pad_to_30s: bool = True  # Whisper's own regime; false: cut to the batch's real length
    share_prefix: bool = True  # training: keys and values of the prompt's prefix once, not in every row of every batch
    train_encoder: bool = False
    train_encoder_layers: int = -1  # with train_encoder: only the last n layers; -1: all of it
    adapter: str = "cformer"  # a name in blspkd/models/adapters/__init__.py
    adapter_options: dict = field(default_factory=dict)  # `Options` in the adapter's file
    # speech tokens as the LLM reads them, in training and after: as they are, each replaced by the nearest text
    # embedding, or drawn to it by its confidence (models/nearest.py)
    snap: Literal["none", "hard", "soft"] = "none"
    # at inference: so many tokens more and fewer are tried, and the number is taken whose tokens are nearest to text
    # embeddings (models/recount.py); 0: the adapter's own
    recount: int = 0
    # llm: not the number whose tokens are nearest to embeddings, but the one whose nearest text tokens the LLM finds
    # most probable, together with recount_weight times the token counter's log-probability of it (models/rescore.py)
    recount_by: Literal["nearest", "llm"] = "nearest"
    recount_weight: float = 4.0  # chosen on the validation set of egs/mini, clean and with noise at 10 dB
    embedding_rms: float = 0.0  # scale of the speech tokens; 0: that of the training text's embeddings, by frequency
    plora_rank: int = 0  # 0: no PLoRA
    plora_alpha: float = 32.0
    plora_dropout: float = 0.0
    plora_targets: str = "all-linear"  # or module names, comma-separated: q_proj,v_proj
    # "all": plain LoRA, to compare with; it changes what the LLM does on text as well
    plora_positions: Literal["speech", "all"] = "speech"

    moved = {**{name: f"adapter_options.{name}" for name in (
        "num_pre_cif_layers", "num_post_cif_layers", "alpha_bias", "match_embedding_norm", "count", "ctc_classes")},
        "adapter_heads": "adapter_options.heads", "adapter_ffn_dim": "adapter_options.ffn_dim",
        "adapter_dropout": "adapter_options.dropout", "conv_layers": "adapter_options.layers (adapter conv only)",
        "conv_bottleneck": "adapter_options.bottleneck (adapter conv only)"}

    def __post_init__(self):
        if self.recount_weight < 0:
            raise ConfigError(f"model: recount_weight: {self.recount_weight} is below 0")
        if self.recount < 0:
            raise ConfigError(f"model: recount: {self.recount} is below 0")


@dataclass
class LossConfig:
    """What is minimised (arXiv 2405.19041, section 3.1): input KL, response KL, and terms with weights of their own.

    With all three w_... at 0 the LLM is never run, and of it only the embedding table is loaded (an alignment).
    Where the adapter has alpha, the quantity loss is among the terms with weight 1 unless `terms` says otherwise.
    """

    w_input: float = 1.0
    w_response: float = 1.0
    w_response_ce: float = 0.0  # BLSP's objective: cross-entropy on the continuation
    # name in blspkd/training/terms/__init__.py -> `Options` in the term's file, at least {weight: ...}; 0: without it
    terms: dict[str, dict] = field(default_factory=dict)
    # share of the steps whose speech has as many tokens as the adapter counts itself, as at inference: without input KL
    # and without the terms that need the transcript's number (training/own_length.py)
    own_length: float = 0.0
    own_length_by: Literal["adapter", "shift"] = "adapter"  # shift: a control, one token more or fewer than there are
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"  # KL(teacher || student)
    jsd_beta: float = 0.5
    temperature: float = 2.0
    temperature_squared: bool = False  # multiply by T^2
    response_positions: Literal["shifted", "released"] = "shifted"  # "released": the authors', one too late
    chunk_mib: int = 0  # memory for one chunk of logits; 0: half of the output head's in float32, at least 96

    moved = {f"w_{name}": f"terms.{name}.weight" for name in ("quantity", "embedding", "ctc")}

    def __post_init__(self):
        if self.temperature <= 0:
            raise ConfigError(f"temperature: {self.temperature} is not a positive number")
        if self.w_response_ce and self.response_positions != "shifted":
            raise ConfigError("w_response_ce: cross-entropy needs response_positions 'shifted'")
        if not 0 <= self.own_length <= 1:
            raise ConfigError(f"own_length: {self.own_length} is not a share from 0 to 1")
        if self.own_length and not (self.w_response or self.w_response_ce):
            raise ConfigError("own_length: such a step learns from the response alone; set w_response or "
                              "w_response_ce, or own_length to 0")
        if not (self.distils or self.terms):
            raise ConfigError("w_input, w_response and w_response_ce are all 0, and terms names nothing: there is "
                              "nothing to learn from")

    @property
    def distils(self) -> bool:
        """Whether the LLM has to run."""
        return bool(self.w_input or self.w_response or self.w_response_ce)


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
    # On log-mel features, drawn anew for every utterance and epoch (data/log_mel.py); 0 switches each of them off.
    vocal_tract_warp: float = 0.0  # largest change of the frequency axis, as a share, either way, e.g. 0.04
    equaliser_db: float = 0.0  # smooth random gain over frequency: standard deviation of its terms in dB, e.g. 0.5
    coloured_noise_share: float = 0.0  # share of the utterances that get noise of a smooth random spectrum ...
    coloured_noise_db: list = field(default_factory=lambda: [15, 45])  # ... so many dB below their loudest point
    operations: list = field(default_factory=list)  # on the training set, e.g. [{name: filter, silence_db: -40}]

    def __post_init__(self):
        for name in ("batch_utterances", "batch_tokens", "batch_seconds", "max_duration", "max_tokens"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}: {getattr(self, name)} is not a positive number")
        if not all(isinstance(factor, (int, float)) and factor > 0 for factor in self.speed_factors):
            raise ConfigError(f"speed_factors: {self.speed_factors} are not all positive numbers")
        if self.noise_snr_db and len(self.noise_snr_db) != 2:
            raise ConfigError(f"noise_snr_db: {self.noise_snr_db} is not [lowest, highest]")
        for name, highest in (("vocal_tract_warp", 0.5), ("equaliser_db", 20), ("coloured_noise_share", 1)):
            if not 0 <= getattr(self, name) <= highest:
                raise ConfigError(f"{name}: {getattr(self, name)} is not a number from 0 to {highest}")
        numbers = [value for value in self.coloured_noise_db if isinstance(value, (int, float))]
        if len(self.coloured_noise_db) != 2 or len(numbers) != 2 or not -100 <= numbers[0] <= numbers[1] <= 100:
            raise ConfigError(f"coloured_noise_db: {self.coloured_noise_db} is not [lowest, highest] in dB")


ON_LOG_MEL = ("vocal_tract_warp", "equaliser_db", "coloured_noise_share")
# of DataConfig, off if 0 or empty
AUGMENTATIONS = ("time_masks", "frequency_masks", "speed_factors", "noise_snr_db", *ON_LOG_MEL)


@dataclass
class TrainingConfig:
    """Optimisation, checkpoints and logging."""

    init_from: str = ""  # exp/<tag>/model: start from its trained weights; empty: a new adapter
    # safetensors file of a recogniser's own CTC head over the LLM's tokens: the token counter starts from it
    init_ctc_head: str = ""
    freeze_param: list = field(default_factory=list)  # stays as init_from made it: beginnings of names, "adapter.x"
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
    # LLM positions of a batch (padding included) that are run at once; the rows of a larger batch are run in pieces of
    # half of that, one after the other, and most of them twice (models/pieces.py); 0: any number
    most_positions: int = 0
    bf16: bool = False
    seed: int = 0
    log_steps: int = 50
    eval_steps: int = 0  # 0: only at the end
    save_steps: int = 1000
    keep_checkpoints: int = 2
    snapshot_steps: list = field(default_factory=list)  # after these, also write <output_dir>/snapshots/<step>/model
    average_checkpoints: int = 0  # the final model averages this many last checkpoints; 0: none
    # compute once and keep on disk: frames of the frozen encoder (no augmentation), and the teacher's hidden states;
    # auto: where that is less work, as it is when an utterance is heard more than once or is there already
    cache_encoder_frames: Switch = False
    cache_teacher: Switch = False
    cache_dir: str = ""  # runs may share one; empty: <output_dir>/cache; may be removed at any time
    # a process that does nothing for so long ends, as do the others, which wait for it; all print where they stand
    hang_minutes: float = 30.0  # 0: never
    # the frozen LLM in parts, one in each process of a machine (node), or in each of all (training/sharding.py)
    shard_llm: Literal["none", "node", "all"] = "none"
    deepspeed: str = ""  # a DeepSpeed configuration file
    find_unused_parameters: bool = False

    def __post_init__(self):
        if self.hang_minutes < 0:
            raise ConfigError(f"training: hang_minutes: {self.hang_minutes} is below 0")
        if self.gradient_accumulation < 1:
            raise ConfigError(f"training: gradient_accumulation: {self.gradient_accumulation} is below 1")


@dataclass
class TrainConfig:
    """`conf/train.yaml`. The prompt is not here: it is the one that stage 2 recorded beside the continuations.

    `align` asks for a phase before, without the LLM (training/phases.py): what it changes of the sections below.
    """

    system: str = "blspkd"  # this model's name in results.json
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    align: dict = field(default_factory=dict)  # {loss: {...}, training: {max_steps: ...}, ...}; empty: no such phase

    def __post_init__(self):
        if self.model.dtype == "float16":
            raise ConfigError("model.dtype: float16 cannot be trained with: the loss is a mean over all positions, and "
                              "each one's gradient falls below the smallest number of that type; use bfloat16, which "
                              "has the range of float32, or float32")
        if self.training.cache_encoder_frames is True and (changing := self._changing_frames()):
            raise ConfigError("cache_encoder_frames: frames differ from epoch to epoch because of "
                              f"{' and '.join(changing)}; switch them off, or the cache")
        if self.training.init_from and self.training.init_ctc_head:
            raise ConfigError("training.init_ctc_head: the model of init_from has a counter that has learnt more; set "
                              "one of the two")
        if self.training.freeze_param and not (self.training.init_from or self.training.init_ctc_head or self.align):
            raise ConfigError(f"training.freeze_param: {self.training.freeze_param[0]} would stay as it was drawn; set "
                              "training.init_from, init_ctc_head or align, too")
        if self.training.cache_teacher is True and not self._has_teacher():
            raise ConfigError("cache_teacher: w_input and w_response are 0, so there is no teacher; set it to false")

    @property
    def caches_frames(self) -> Switch:
        """`cache_encoder_frames`, but for auto where frames are not always the same."""
        return self.training.cache_encoder_frames if not self._changing_frames() else False

    @property
    def caches_teacher(self) -> Switch:
        """`cache_teacher`, but for auto where there is no teacher, or it is in parts."""
        return self.training.cache_teacher if self._has_teacher() and self.training.shard_llm == "none" else False

    def _changing_frames(self) -> list[str]:
        """Options that make an utterance's frames differ from epoch to epoch."""
        return [key for key, on in {
            "model.train_encoder": self.model.train_encoder,
            **{f"data.{name}": getattr(self.data, name) for name in AUGMENTATIONS}}.items() if on]

    def _has_teacher(self) -> bool:
        return bool(self.loss.w_input or self.loss.w_response)
