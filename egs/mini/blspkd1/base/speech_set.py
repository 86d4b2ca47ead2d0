"""Data directories in memory: log-mel features, transcripts, and the word that is spoken in each feature frame."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import WhisperFeatureExtractor

from blspkd.audio.samples import load
from blspkd.errors import DataError
from blspkd.kaldi.data_dir import KaldiDir
from blspkd.kaldi.word_times import Word, read_word_times
from blspkd.progress import progress

SILENCE = 0  # the class of a frame in which nobody speaks
RARE = -100  # of a frame whose word is too rare to have a class; the losses leave it out
MIN_COUNT = 20  # of a word with a class of its own


@dataclass(frozen=True)
class SpeechSet:
    """All utterances, their frames end to end: those of utterance u are starts[u]:starts[u + 1].

    Where nobody knows when the words are spoken (recordings of people), all frames are RARE and there are no segments.
    """

    frames: np.ndarray  # [all frames, M] float16 log-mel
    words: np.ndarray  # [all frames] int16: class of the word spoken
    starts: np.ndarray  # [utterances + 1]
    texts: list[str]
    segments: list[list[Word]]  # of each utterance
    num_words: int  # classes, silence included

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)


def read_speech_set(paths: list[Path], extractor: WhisperFeatureExtractor) -> SpeechSet:
    """Load, extract and label everything.

    Raises DataError for utterances that are longer than a chunk or in two sets.
    """
    utterances, segments = [], {}
    for path in paths:
        utterances += KaldiDir.read(path).utterances.values()
        if (path / "word_times").is_file():
            segments |= read_word_times(path / "word_times")
    twice = [utt_id for utt_id, count in Counter(u.utt_id for u in utterances).items() if count > 1]
    if twice:
        raise DataError(f"{' '.join(map(str, paths))}: utterance {twice[0]} is in two of them")
    counts = Counter(segment.text for spoken in segments.values() for segment in spoken)
    frequent = sorted(text for text, count in counts.items() if count >= MIN_COUNT)
    classes = {text: number for number, text in enumerate(frequent, start=SILENCE + 1)}
    frames, words = [], []
    for utterance in progress(utterances, "features", total=len(utterances), unit="utt"):
        waveform = load(utterance.audio, extractor.sampling_rate)
        if len(waveform) > extractor.n_samples:
            raise DataError(f"utterance {utterance.utt_id} is longer than chunk_seconds ({extractor.chunk_length} s)")
        mel = log_mel(waveform, extractor)
        frames.append(mel.astype(np.float16))
        seconds = extractor.hop_length / extractor.sampling_rate
        known = utterance.utt_id in segments
        words.append(label_frames(segments[utterance.utt_id], classes, len(mel), seconds) if known else
                     np.full(len(mel), RARE, dtype=np.int16))
    starts = np.concatenate([[0], np.cumsum([len(mel) for mel in frames])])
    texts = [" ".join(utterance.text.split()) for utterance in utterances]
    return SpeechSet(np.concatenate(frames), np.concatenate(words), starts, texts,
                     [segments.get(u.utt_id, []) for u in utterances], len(classes) + 1)


def log_mel(waveform: np.ndarray, extractor: WhisperFeatureExtractor) -> np.ndarray:
    """waveform [samples] -> [F, M], F = samples / hop rounded up, not padded to a chunk."""
    options = {"padding": "longest", "truncation": False, "pad_to_multiple_of": extractor.hop_length}
    mel = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="np", **options)
    return mel["input_features"][0].T


def label_frames(segments: list[Word], classes: dict[str, int], num_frames: int, frame_seconds: float) -> np.ndarray:
    """The class of the word spoken at the middle of each frame [num_frames]."""
    labels = np.full(num_frames, SILENCE, dtype=np.int16)
    middle = (np.arange(num_frames) + 0.5) * frame_seconds
    for segment in segments:
        first, last = np.searchsorted(middle, (segment.start, segment.end))
        labels[first:last] = classes.get(segment.text, RARE)
    return labels


def word_spans(text: str, segments: list[Word]) -> list[tuple[float, float]]:
    """(start, end) in seconds of the segment that each word of `text` is in; empty where the two do not fit."""
    words = [(word, (segment.start, segment.end)) for segment in segments for word in segment.text.split()]
    return [span for _, span in words] if [word for word, _ in words] == text.split() else []
