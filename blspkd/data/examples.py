"""Utterance + transcript + continuation -> Example: token ids and where the audio lies."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blspkd.audio.samples import AudioSource, load
from blspkd.config import DataConfig
from blspkd.data.example_columns import LazyExamples
from blspkd.data.features import Augmenter, FeatureExtractor, Features
from blspkd.data.negative import draw_negative
from blspkd.data.operations.mask_speech import WordMasking
from blspkd.data.prompts import Prompt
from blspkd.data.tags import Tags
from blspkd.data.tensor_store import TensorStore
from blspkd.errors import AudioError, DataError
from blspkd.kaldi.data_dir import KaldiDir
from blspkd.kaldi.tables import remedy_command


@dataclass(frozen=True)
class Example:
    """One training turn. Its sequence is prefix + input + suffix + response."""

    utt_id: str
    audio: AudioSource
    duration: float  # seconds
    prefix: np.ndarray  # token ids, int32, like the three below
    input: np.ndarray
    suffix: np.ndarray
    response: np.ndarray  # continuation and end-of-turn token
    negative: np.ndarray | None = None  # another utterance's transcript (negative.py); None: not drawn, or none found
    masking: WordMasking | None = None  # words of which some are masked when it is augmented; None: none
    rate: float = 1.0  # share of the epochs that hear it, drawn anew for each (data/operations/mix.py)
    tags: Tags = ()  # in front of the instruction, where data operations put some
    weight: float = 1.0  # factor of the response's share in the loss
    score: float | None = None  # R of the response, 0 to 1, where the data operation `prefer` marks it ...
    is_bad: bool = False  # ... and whether that is below the threshold

    @property
    def n_tokens(self) -> int:
        """LLM tokens of the transcript, which is how many speech tokens CIF has to fire."""
        return len(self.input)

    @property
    def length(self) -> int:
        """Positions of the whole sequence."""
        return len(self.prefix) + len(self.input) + len(self.suffix) + len(self.response)


@dataclass
class Selection:
    """Which utterances became examples, and why the others did not."""

    examples: Sequence[Example] = field(default_factory=list)
    left_out: Counter = field(default_factory=Counter)

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()))
        return f"{len(self.examples)} utterances" + (f" (left out: {reasons})" if reasons else "")


def make_examples(data: KaldiDir, continuations: Mapping[str, str] | None, prompt: Prompt, config: DataConfig
                  ) -> Selection:
    """Tokenise every utterance that has a continuation and fits the limits of `config`; count the others.

    continuations: None asks for none, and responses are empty.
    Raises DataError where durations are missing or nothing is left.
    """
    selection = Selection()
    shared: dict[tuple, np.ndarray] = {}  # prefixes and suffixes are mostly the same: keep one of each

    def once(ids: list[int]) -> np.ndarray:
        return shared.setdefault(tuple(ids), np.asarray(ids, dtype=np.int32))

    for utterance in data:
        if utterance.duration is None:
            raise DataError(f"{data.path}: no duration for utterance {utterance.utt_id}; run "
                            f"`{remedy_command('get_utt2dur.sh', data.path)}`")
        if continuations is not None and utterance.utt_id not in continuations:
            selection.left_out["without a continuation"] += 1
        elif utterance.duration < config.min_duration:
            selection.left_out[f"shorter than {config.min_duration} s"] += 1
        elif utterance.duration > config.max_duration:
            selection.left_out[f"longer than {config.max_duration} s"] += 1
        else:
            ids = prompt.split(utterance.text, prompt.instruction_of(utterance.utt_id))
            response = [] if continuations is None else prompt.response(continuations[utterance.utt_id])
            example = Example(utterance.utt_id, utterance.audio, utterance.duration, once(ids.prefix),
                              np.asarray(ids.input, dtype=np.int32), once(ids.suffix),
                              np.asarray(response, dtype=np.int32))
            if example.length > config.max_tokens:
                selection.left_out[f"longer than {config.max_tokens} LLM tokens"] += 1
            else:
                selection.examples.append(example)
    check_some_left(data.path, selection)
    return selection


def check_some_left(path: Path, selection: Selection) -> None:
    """Raise DataError where nothing of data directory `path` is selected."""
    if not selection.examples:
        raise DataError(f"{path}: no utterance is left to train on: {selection}")


def without_prompt(examples: Sequence[Example]) -> Sequence[Example]:
    """The same with their transcripts' tokens alone, for a training in which no LLM reads them."""
    if isinstance(examples, LazyExamples):
        return examples.without_prompt()
    nothing = np.zeros(0, dtype=np.int32)
    return [replace(example, prefix=nothing, suffix=nothing, response=nothing) for example in examples]


@dataclass
class Cached:
    """What need not be computed again (blspkd.training.cache)."""

    frames: TensorStore | None = None  # [T, C] of the speech encoder
    teacher: TensorStore | None = None  # [n, D] last hidden states at the input positions, then the response's


@dataclass
class LoadedExample:
    """An example with its features, or the error that its audio gave."""

    example: Example
    features: Features | None
    error: str = ""
    encoded: bool = False  # the features are frames [T, C] of the speech encoder
    teacher: Tensor | None = None  # [n, D], see `Cached`


class ExampleDataset(torch.utils.data.Dataset):
    """Examples by (epoch, index); what augmentation draws depends on the seed, the epoch and the index only.

    Without an extractor no audio is read, and examples have features without a window.
    """

    def __init__(self, examples: Sequence[Example], extractor: FeatureExtractor | None, config: DataConfig, seed: int,
                 augment: bool, cached: Cached | None = None, negatives: bool = False):
        """negatives: draw `Example.negative`."""
        self.examples = examples
        self.negatives = negatives
        self.extractor = extractor
        self.cached = cached or Cached()
        self.augmenter = Augmenter(config, extractor.frames_per_second, extractor.is_mel) if augment else None
        self.seed = seed

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, key: tuple[int, int]) -> LoadedExample:
        loaded = self._load(*key)
        if self.cached.teacher is not None:
            loaded.teacher = self.cached.teacher.get(loaded.example.utt_id)
        if self.negatives:
            loaded.example = replace(loaded.example, negative=draw_negative(self.examples, self.seed, *key))
        return loaded

    def _load(self, epoch: int, index: int) -> LoadedExample:
        example = self.examples[index]
        if self.cached.frames is not None:
            frames = self.cached.frames.get(example.utt_id)
            if frames is None:
                return LoadedExample(example, None, f"utterance {example.utt_id}: its audio could not be read when "
                                     f"{self.cached.frames.folder} was made; mend it and remove that folder")
            return LoadedExample(example, Features([frames], [len(frames)]), encoded=True)
        if self.extractor is None:
            return LoadedExample(example, Features([], []))
        try:
            waveform = load(example.audio, self.extractor.sampling_rate)
            if self.augmenter is None:
                return LoadedExample(example, self.extractor(waveform))
            generator = np.random.default_rng((self.seed, epoch, index))
            perturbed = self.augmenter.waveform(waveform, generator)
            features = self.augmenter.features(self.extractor(perturbed), generator)
            if example.masking is not None:
                stretches = example.masking.draw(self.seed, epoch, index)
                features = self.augmenter.mask(features, stretches * (len(perturbed) / len(waveform)))
            return LoadedExample(example, features)
        except AudioError as error:
            return LoadedExample(example, None, f"utterance {example.utt_id}: {error}")
