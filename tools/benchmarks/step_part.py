"""The training steps that `step.py` compares, and what is measured of them.

Random models, noise with the lengths of LibriSpeech. A step is collate, forward, backward and optimiser; features are
left out, because loading processes make them meanwhile. Both losses are compared first. Then the same utterances pass
through either, in batches of the same size: ours by BatchPlan, theirs at random. The learning rate is 0, so that every
turn sees the same weights. Peak memory is that of the batch that needs most, above the weights.
"""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from measure import Row, extra_peak_mib, row, synchronise, take_turns
from straightforward import StraightforwardObjective, collate_segments
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, WhisperConfig, WhisperFeatureExtractor, WhisperModel
from utterances import librispeech_like, mini_like, waveform

from blspkd.config import DataConfig, LossConfig, ModelConfig, PromptConfig
from blspkd.data.batching import POOL_BATCHES, BatchPlan, collate
from blspkd.data.examples import Example, LoadedExample
from blspkd.data.features import FeatureExtractor
from blspkd.models.speech_llm import SpeechLlm
from blspkd.training.objective import Denominators, KdObjective
from blspkd.training.terms import kd

PEER = "authors-structure"
PARTS = ("collate", "encoder", "adapter", "student", "teacher", "kd", "backward", "optimiser", "other")


@dataclass
class Sizes:
    """All that differs between devices."""

    encoder_width: int
    encoder_layers: int
    llm_width: int
    llm_ffn: int
    llm_layers: int
    head_width: int  # of the LLM's attention
    vocabulary: int
    cif_layers: int  # before and after CIF, each
    batch: int  # utterances
    utterances: int
    dtype: str = "float32"
    window: int = 30  # of the encoder, in seconds
    corpus: Callable = librispeech_like

    @property
    def described(self) -> str:
        return (f"encoder {self.encoder_layers} layers of {self.encoder_width}, LLM {self.llm_layers} of "
                f"{self.llm_width}, vocabulary {self.vocabulary}, PLoRA of rank 16, {self.dtype}")

    @property
    def tolerance(self) -> float:
        """Largest relative difference between the two losses."""
        return 1e-4 if self.dtype == "float32" else 0.05


SIZES = {"cpu": Sizes(144, 2, 256, 688, 6, 64, 32000, 2, 8, 32),
         "cuda": Sizes(768, 12, 4096, 11008, 32, 128, 32000, 4, 8, 64, "bfloat16"),  # Whisper-small, Llama-2-7B
         "quick": Sizes(32, 1, 32, 48, 1, 16, 400, 1, 2, 4, window=6, corpus=mini_like)}


@dataclass
class StepRow(Row):
    """One comparison; `ours_s` and `peer_s` are seconds for all utterances."""

    utterances: int = 0
    ours_utterances_per_s: float = 0.0
    peer_utterances_per_s: float = 0.0
    ours_useful: float = 0.0  # useful LLM positions over all
    peer_useful: float = 0.0
    ours_parts: dict[str, float] = field(default_factory=dict)  # share of the time by part
    peer_parts: dict[str, float] = field(default_factory=dict)


class Parts:
    """Adds up the seconds of each part of a step."""

    def __init__(self, device: str):
        self.device, self.seconds = device, defaultdict(float)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        synchronise(self.device)
        start = time.perf_counter()
        yield
        synchronise(self.device)
        self.seconds[part] += time.perf_counter() - start

    def timed(self, part: str, function: Callable) -> Callable:
        """`function`, timed."""
        def call(*args, **kwargs):
            with self(part):
                return function(*args, **kwargs)
        return call

    def shares(self, whole: float) -> dict[str, float]:
        """Of `whole` seconds, by part."""
        other = max(0.0, whole - sum(self.seconds.values()))
        return {part: (self.seconds[part] if part != "other" else other) / whole for part in PARTS}


class Contestant:
    """One way to make training steps; `loss` gets examples and a timer."""

    def __init__(self, loss: Callable, batches: list[list[LoadedExample]], useful: float, model: nn.Module,
                 sizes: Sizes, device: str):
        self.loss, self.batches, self.useful = loss, batches, useful
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=0.0)
        half = device == "cuda" and sizes.dtype == "bfloat16"
        self.autocast = partial(torch.autocast, device, torch.bfloat16) if half else nullcontext

    def step(self, examples: list[LoadedExample], timer: Callable = nullcontext) -> None:
        with self.autocast():
            loss = self.loss(examples, timer)
        with timer("backward"):
            loss.backward()
        with timer("optimiser"):
            self.optimiser.step()
            self.optimiser.zero_grad()

    def run(self, timer: Callable = nullcontext) -> None:
        for examples in self.batches:
            self.step(examples, timer)

    def gradients(self, examples: list[LoadedExample]) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss and all its gradients, in one vector."""
        with self.autocast():
            loss = self.loss(examples, nullcontext)
        gradients = torch.autograd.grad(loss, self.parameters)
        return loss.detach(), torch.cat([gradient.float().flatten() for gradient in gradients])

    def shares(self, device: str) -> dict[str, float]:
        parts = Parts(device)
        start = time.perf_counter()
        self.run(parts)
        synchronise(device)
        return parts.shares(time.perf_counter() - start)

    def peak(self, device: str) -> float:
        """MiB that a step on the longest sequences needs at most, above what is there before it."""
        longest = max(self.batches, key=lambda batch: len(batch) * max(item.example.length for item in batch))
        return extra_peak_mib(partial(self.step, longest), device)


def run(device: str, quick: bool = False) -> list[StepRow]:
    """All comparisons. Ends the program with a message where the two losses differ."""
    sizes = SIZES["quick" if quick else device]
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        ours, trimmed, theirs = contestants(sizes, Path(folder), device)
    difference = check_equality(ours, theirs[PEER], sizes)
    competitors = {"ours": ours, "trimmed": trimmed, **theirs}
    turns = take_turns({name: contestant.run for name, contestant in competitors.items()}, device,
                       turns=2 if quick else 3)
    shares = {name: competitors[name].shares(device) for name in ("ours", "trimmed", PEER)}
    peaks = {name: competitors[name].peak(device) for name in shares}

    def compare(case: str, name: str, peer: str) -> StepRow:
        seconds = {"ours": turns.seconds[name], peer: turns.seconds[peer]}
        plain = row("step", case, peer, type(turns)(seconds), {**peaks, "ours": peaks[name]}, difference,
                    note=f"batches of {sizes.batch}, {sizes.described}")
        count = sizes.utterances
        return StepRow(**asdict(plain), utterances=count, ours_utterances_per_s=count / plain.ours_s,
                       peer_utterances_per_s=count / plain.peer_s, ours_useful=competitors[name].useful,
                       peer_useful=competitors[peer].useful, ours_parts=shares[name], peer_parts=shares.get(peer, {}))

    rows = [compare("30 s windows in both", "ours", PEER), compare("30 s windows in theirs only", "trimmed", PEER)]
    return rows + [compare("30 s windows in both", "ours", peer) for peer in theirs if peer != PEER]


def contestants(sizes: Sizes, folder: Path, device: str) -> tuple[Contestant, Contestant, dict[str, Contestant]]:
    """Ours, ours with a trimmed encoder, and theirs: as it is, and with one thing done our way."""
    config = LossConfig(response_positions="released")  # as theirs
    model = build(sizes, folder, device)
    ours = KdObjective(model, config).train()
    corpus = sizes.corpus(POOL_BATCHES * sizes.batch, vocabulary=sizes.vocabulary)
    data = DataConfig(batch_utterances=sizes.batch, batch_tokens=10**9, batch_seconds=1e9)
    plan = BatchPlan(corpus, data, 0, 1).epoch(0)[:sizes.utterances // sizes.batch]  # a few of an epoch's batches ...
    examples = [corpus[index] for batch in plan for index in batch]
    plan = np.arange(sizes.utterances).reshape(-1, sizes.batch)
    at_random = np.random.default_rng(0).permutation(plan.flatten()).reshape(plan.shape)  # ... and the same, mixed
    padded, short = (load_examples(examples, folder, pad) for pad in (True, False))

    def ours_on(loaded: list[LoadedExample], pad_to_30s: bool) -> Contestant:
        batches = [[loaded[i] for i in batch] for batch in plan]
        useful = sum(e.length for e in examples) / sum(len(b) * max(examples[i].length for i in b) for b in plan)
        loss = partial(our_loss, ours, pad_to_30s, torch.device(device))
        return Contestant(loss, batches, useful, model, sizes, device)

    def theirs_on(order, **our_way) -> Contestant:
        batches = [[padded[i] for i in batch] for batch in order]
        peer = StraightforwardObjective(model, config, **our_way).train()
        positions = sum(len(b) * sum(max(len(getattr(item.example, name)) for item in b)
                                     for name in ("prefix", "input", "suffix", "response")) for b in batches)
        return Contestant(partial(their_loss, peer, torch.device(device)), batches,
                          sum(e.length for e in examples) / positions, model, sizes, device)

    theirs = {PEER: theirs_on(at_random), f"{PEER}, our batches": theirs_on(plan),
              f"{PEER}, our CIF": theirs_on(at_random, loop=False),
              f"{PEER}, our KD loss": theirs_on(at_random, all_logits=False),
              f"{PEER}, our attention": theirs_on(at_random, attention="sdpa")}
    return ours_on(padded, True), ours_on(short, False), theirs


def build(sizes: Sizes, folder: Path, device: str) -> SpeechLlm:
    """A SpeechLlm whose base models are random, by the ordinary way through files."""
    heads = max(1, sizes.encoder_width // (48 if sizes.encoder_width % 64 else 64))
    frames = 50 * sizes.window
    encoder = WhisperConfig(d_model=sizes.encoder_width, encoder_layers=sizes.encoder_layers, decoder_layers=1,
                            encoder_attention_heads=heads, decoder_attention_heads=heads, vocab_size=64,
                            encoder_ffn_dim=4 * sizes.encoder_width, decoder_ffn_dim=64, max_source_positions=frames,
                            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)
    WhisperModel(encoder).save_pretrained(folder / "encoder")
    WhisperFeatureExtractor(chunk_length=sizes.window).save_pretrained(folder / "encoder")
    heads = sizes.llm_width // sizes.head_width
    llm = LlamaConfig(vocab_size=sizes.vocabulary, hidden_size=sizes.llm_width, intermediate_size=sizes.llm_ffn,
                      num_hidden_layers=sizes.llm_layers, num_attention_heads=heads, num_key_value_heads=heads)
    with torch.device(device):  # 7 billion random numbers take a GPU a second and a CPU minutes
        made = AutoModelForCausalLM.from_config(llm, dtype=getattr(torch, sizes.dtype))
    made.save_pretrained(folder / "llm")
    del made
    config = ModelConfig(llm=str(folder / "llm"), speech_encoder=str(folder / "encoder"), dtype=sizes.dtype,
                         adapter_options={"num_pre_cif_layers": sizes.cif_layers,
                                          "num_post_cif_layers": sizes.cif_layers,
                                          "heads": encoder.encoder_attention_heads,
                                          "ffn_dim": 4 * sizes.encoder_width},
                         plora_rank=16, attn_implementation="sdpa")
    model = SpeechLlm.from_config(config, PromptConfig())
    with torch.no_grad():  # PLoRA starts at zero: let it do something
        for name, parameter in model.llm.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    return model.to(device)


def load_examples(examples: list[Example], folder: Path, pad_to_30s: bool) -> list[LoadedExample]:
    extractor = FeatureExtractor(str(folder / "encoder"), pad_to_30s)
    return [LoadedExample(example, extractor(waveform(example))) for example in examples]


def our_loss(model: KdObjective, pad_to_30s: bool, device: torch.device, examples: list[LoadedExample],
             timer: Callable) -> torch.Tensor:
    speech_llm = model.speech_llm
    speech_llm.encoder.pad_to_30s = pad_to_30s
    with ExitStack() as patches:
        if isinstance(timer, Parts):
            for part, owner, name in (
                    ("encoder", speech_llm.encoder, "forward"), ("adapter", speech_llm.adapter, "forward"),
                    ("student", speech_llm, "student_states"), ("teacher", speech_llm, "teacher_states"),
                    ("kd", kd, "distillation_loss")):
                patches.enter_context(patch.object(owner, name, timer.timed(part, getattr(owner, name))))
        with timer("collate"):
            batch = collate(examples)
            counts = Denominators.of([batch])
            batch = batch.to(device)
        return model(batch, counts).loss


def their_loss(model: StraightforwardObjective, device: torch.device, examples: list[LoadedExample],
               timer: Callable) -> torch.Tensor:
    with timer("collate"):
        batch = collate_segments(examples, device)
    return model(batch, timer)


def check_equality(ours: Contestant, theirs: Contestant, sizes: Sizes) -> float:
    """Largest relative difference of the losses over a bucketed and a random batch; gradients are compared as well."""
    differences = []
    for examples in (ours.batches[0], theirs.batches[0]):
        (loss, gradient), (expected, slope) = ours.gradients(examples), theirs.gradients(examples)
        angle = float((gradient - slope).norm() / slope.norm())
        differences.append(float((loss - expected).abs() / expected))
        if differences[-1] > sizes.tolerance or angle > 30 * sizes.tolerance:
            sys.exit(f"the two steps are not the same work: losses {loss:.6f} and {expected:.6f}, gradients differ by "
                     f"{angle:.2g} of their norm")
    return max(differences)
