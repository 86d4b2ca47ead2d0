"""The recordings of a data directory's utterances: how long each is, its samples, and the files that say so."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blspkd.audio import samples as audio
from blspkd.errors import AudioError
from blspkd.kaldi.data_dir import Utterance

RECORDING_FILES = ("wav.scp", "segments", "reco2channel", "utt2dur")


@dataclass(frozen=True)
class Recordings:
    """Of `utterances`, which are in the data directory `path`. AudioErrors name directory and utterance."""

    path: Path
    utterances: dict[str, Utterance]

    def seconds(self, utt_id: str) -> float:
        """As `utt2dur` has it, else from the file's header. Raises AudioError."""
        utterance = self.utterances[utt_id]
        if utterance.duration is not None:
            return utterance.duration
        with self._named(utt_id):
            return audio.duration(utterance.audio)

    def load(self, utt_id: str, sampling_rate: int) -> np.ndarray:
        """Samples [samples] at `sampling_rate` Hz. Raises AudioError."""
        with self._named(utt_id):
            return audio.load(self.utterances[utt_id].audio, sampling_rate)

    @contextmanager
    def _named(self, utt_id: str) -> Iterator[None]:
        try:
            yield
        except AudioError as error:
            raise AudioError(f"{self.path}: utterance {utt_id}: {error}") from None
