"""Utterances with the lengths of real corpora, for batches and steps: sizes are drawn, the rest is noise.

*LibriSpeech-like*: durations with the shape of train-960 (mean 12.3 s; two thirds between 13 and 16 s; down to 1.3 s),
about 3.1 LLM tokens a second, continuations of up to 64 tokens, nearly half of them cut off there, and a prompt of 30.
*mini-like*: the recipe egs/mini: 2 to 4 s, about ten words of one token each, short continuations.
"""

import numpy as np

from blspkd.audio.samples import AudioSource
from blspkd.data.examples import Example

SAMPLING_RATE = 16000


def librispeech_like(number: int, seed: int = 0, vocabulary: int = 32000) -> list[Example]:
    """`number` examples; only lengths matter, the token ids are drawn from the vocabulary."""
    generator = np.random.default_rng(seed)
    kind = generator.random(number)
    durations = np.where(kind < 0.66, generator.normal(14.5, 1.0, number), generator.uniform(1.3, 15.0, number))
    durations = np.where(kind > 0.99, generator.uniform(16.0, 24.0, number), durations).clip(1.3, 24.5)
    transcripts = np.round(durations * generator.normal(3.1, 0.45, number).clip(1.5, 5.0)).astype(int).clip(1)
    replies = np.round(generator.gamma(9.0, 7.0, number)).astype(int).clip(3, 64) + 1  # and the end of the turn
    return _examples(durations, (24, transcripts, 6, replies), vocabulary, generator)


def mini_like(number: int, seed: int = 0, vocabulary: int = 400) -> list[Example]:
    """Likewise."""
    generator = np.random.default_rng(seed)
    words = generator.integers(5, 15, number)
    durations = (0.35 + words * generator.normal(0.24, 0.03, number)).clip(0.8, 5.0)
    transcripts = words + generator.binomial(words, 0.1)
    replies = generator.integers(5, 24, number) + 1
    return _examples(durations, (7, transcripts, 2, replies), vocabulary, generator)


def waveform(example: Example, seed: int = 0) -> np.ndarray:
    """Noise of the example's duration, float32 [samples]."""
    generator = np.random.default_rng((seed, len(example.input), len(example.response)))
    return 0.1 * generator.standard_normal(round(example.duration * SAMPLING_RATE), dtype=np.float32)


def _examples(durations: np.ndarray, sizes: tuple, vocabulary: int, generator: np.random.Generator) -> list[Example]:
    """sizes: of prefix, input, suffix and response, one number or [number] each. Prefix and suffix are shared."""
    prefix, suffix = (generator.integers(vocabulary, size=sizes[i], dtype=np.int32) for i in (0, 2))
    return [Example(f"utt{i:06d}", AudioSource("noise.wav"), float(duration), prefix,
                    generator.integers(vocabulary, size=sizes[1][i], dtype=np.int32), suffix,
                    generator.integers(vocabulary, size=sizes[3][i], dtype=np.int32))
            for i, duration in enumerate(durations)]
