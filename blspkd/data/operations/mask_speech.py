"""Mask words in the speech that the student hears, while the teacher reads the whole text.

UNITER's conditional masking (arXiv 1909.11740, section 3.2) hides 15 % of one modality and leaves the other whole. Here
it hides the stretches of time in which words are spoken, as the table `word_times` of the directory has them: the LLM
must be told from the rest of the sentence what is missing. Which words is drawn anew in every epoch.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from blspkd.data.operations.operation import Operation, Report
from blspkd.errors import ConfigError, DataError
from blspkd.kaldi.data_dir import KaldiDir
from blspkd.kaldi.word_times import read_word_times

if TYPE_CHECKING:
    from blspkd.data.examples import Example

STREAM = 2  # beside (seed, epoch, index): whatever else augments draws the same numbers with masks and without


@dataclass(frozen=True, eq=False)
class WordMasking:
    """What may be masked of one utterance, and how much of it."""

    words: np.ndarray  # [n, 2] seconds: start and end of each word
    share: float  # of the words, on average

    def draw(self, seed: int, epoch: int, index: int) -> np.ndarray:
        """The words to mask [k, 2], in order of time; k is share * n on average, the nearest integers to it.

        index: of the example in its set.
        """
        random = np.random.default_rng((seed, epoch, index, STREAM))
        count = int(self.share * len(self.words) + random.random())
        return self.words[np.sort(random.permutation(len(self.words))[:count])]


class MaskSpeech(Operation):
    """Gives every example its words to mask; it needs features that are computed anew (no cache of frames)."""

    @dataclass(frozen=True)
    class Options(Operation.Options):
        share: float = 0.15  # of the words; 0: none

        def __post_init__(self):
            if not 0 <= self.share <= 1:
                raise ConfigError(f"share: is a share of the words, from 0 to 1, and not {self.share:g}")

    def apply(self, examples: "list[Example]", data: KaldiDir, random: np.random.Generator
              ) -> "tuple[list[Example], Report]":
        if not self.options.share:
            return examples, {}
        path = data.path / "word_times"
        if not path.is_file():
            raise DataError(f"{path}: not there; mask_speech needs to know when each word is spoken: write the file "
                            "(`<utt-id> <start s> <end s> <word>` a line), or leave the operation out")
        times = read_word_times(path)
        if lost := [example.utt_id for example in examples if example.utt_id not in times]:
            raise DataError(f"{path}: nothing of {len(lost)} utterances: {' '.join(lost[:5])}"
                            f"{' ...' * (len(lost) > 5)}; add their lines, or leave these utterances out")
        words = {utt_id: np.array([(word.start, word.end) for word in spoken]) for utt_id, spoken in times.items()}
        return [replace(example, masking=WordMasking(words[example.utt_id], self.options.share))
                for example in examples], {}
