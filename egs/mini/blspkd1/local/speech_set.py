"""A data directory in memory: log-mel features, transcripts, and the word that is spoken in each feature frame."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import WhisperFeatureExtractor

from blspkd.data.audio import load
from blspkd.data.kaldi_dir import KaldiDir
from blspkd.errors import DataError
from blspkd.progress import progress

SILENCE = 0  # the class of a frame in which nobody speaks
RARE = -100  # of a frame whose word is too rare to have a class; the losses leave it out
MIN_COUNT = 20  # of a word with a class of its own


@dataclass(frozen=True)
class Segment:
    """`text` is spoken from `start` to `end` (seconds): mostly one word, two where the synthesiser joins them."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class SpeechSet:
    """All utterances of a set, their frames end to end: those of utterance u are starts[u]:starts[u + 1]."""

    frames: np.ndarray  # [all frames, M] float16 log-mel
    words: np.ndarray  # [all frames] int16: class of the word spoken
    starts: np.ndarray  # [utterances + 1]
    texts: list[str]
    segments: list[list[Segment]]  # of each utterance
    num_words: int  # classes, silence included

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)


def read_speech_set(path: Path, extractor: WhisperFeatureExtractor) -> SpeechSet:
    """Load, extract and label everything. Raises DataError for utterances without word times or longer than a chunk."""
    data = KaldiDir.read(path)
    utterances = list(data.utterances.values())
    segments = read_word_times(path / "word_times")
    counts = Counter(segment.text for spoken in segments.values() for segment in spoken)
    frequent = sorted(text for text, count in counts.items() if count >= MIN_COUNT)
    classes = {text: number for number, text in enumerate(frequent, start=SILENCE + 1)}
    frames, words = [], []
    for utterance in progress(utterances, "features", total=len(utterances), unit="utt"):
        if utterance.utt_id not in segments:
            raise DataError(f"{path}/word_times: utterance {utterance.utt_id} is missing")
        waveform = load(utterance.audio, extractor.sampling_rate)
        if len(waveform) > extractor.n_samples:
            raise DataError(f"{path}: utterance {utterance.utt_id} is longer than chunk_seconds "
                            f"({extractor.chunk_length} s)")
        mel = log_mel(waveform, extractor)
        frames.append(mel.astype(np.float16))
        seconds = extractor.hop_length / extractor.sampling_rate
        words.append(label_frames(segments[utterance.utt_id], classes, len(mel), seconds))
    starts = np.concatenate([[0], np.cumsum([len(mel) for mel in frames])])
    return SpeechSet(np.concatenate(frames), np.concatenate(words), starts, [u.text for u in utterances],
                     [segments[u.utt_id] for u in utterances], len(classes) + 1)


def log_mel(waveform: np.ndarray, extractor: WhisperFeatureExtractor) -> np.ndarray:
    """waveform [samples] -> [F, M], F = samples / hop rounded up, not padded to a chunk."""
    options = {"padding": "longest", "truncation": False, "pad_to_multiple_of": extractor.hop_length}
    mel = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="np", **options)
    return mel["input_features"][0].T


def label_frames(segments: list[Segment], classes: dict[str, int], num_frames: int, frame_seconds: float) -> np.ndarray:
    """The class of the word spoken at the middle of each frame [num_frames]."""
    labels = np.full(num_frames, SILENCE, dtype=np.int16)
    middle = (np.arange(num_frames) + 0.5) * frame_seconds
    for segment in segments:
        first, last = np.searchsorted(middle, (segment.start, segment.end))
        labels[first:last] = classes.get(segment.text, RARE)
    return labels


def word_spans(text: str, segments: list[Segment]) -> list[tuple[float, float]]:
    """(start, end) in seconds of the segment that each word of `text` is in; empty where the two do not fit."""
    words = [(word, (segment.start, segment.end)) for segment in segments for word in segment.text.split()]
    return [span for _, span in words] if [word for word, _ in words] == text.split() else []


def read_word_times(path: Path) -> dict[str, list[Segment]]:
    """Read "<utt-id> <start s> <end s> <text>" lines. Raises DataError, naming the line."""
    segments: dict[str, list[Segment]] = {}
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; the recogniser needs the synthesiser's word times")
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                utt_id, start, end, text = line.rstrip("\n").split(" ", 3)
                segments.setdefault(utt_id, []).append(Segment(float(start), float(end), text))
            except ValueError:
                raise DataError(f"{path}:{number}: expected <utt-id> <start> <end> <text>, found {line!r}") from None
    return segments
