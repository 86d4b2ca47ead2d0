"""A recogniser with a CTC head tells when words are spoken. See align_words.py."""

from pathlib import Path

import numpy as np
import torch
from ctc_alignment import word_frames, word_tokens
from recogniser_augment import ENCODER_STRIDE
from recogniser_evaluation import encode
from recogniser_model import load_with_ctc_head
from training_loop import prepare_cpu
from transformers import AutoFeatureExtractor, AutoTokenizer

from blspkd.data.pretrained import load_pretrained
from blspkd.models.ctc_alignment import align

BEFORE, BEHIND = 0.4, 0.25  # seconds: a word lasts at most this long around the frames that CTC gives to it


class Aligner:
    """A recogniser with its CTC head, at work."""

    def __init__(self, folder: Path, tokenizer_dir: str):
        prepare_cpu()
        self.model, tokens = load_with_ctc_head(folder)
        self.classes = {token: number for number, token in enumerate(tokens, start=1)}
        self.extractor = load_pretrained(AutoFeatureExtractor, folder)
        self.tokenizer = load_pretrained(AutoTokenizer, tokenizer_dir)
        self.frame_seconds = self.extractor.hop_length / self.extractor.sampling_rate

    @torch.no_grad()
    def times(self, audio: list[np.ndarray], texts: list[str]) -> list[np.ndarray | None]:
        """Waveforms and what is said in them -> seconds at which each word begins and ends [W, 2]; None: unknown."""
        rows, words = word_tokens(texts, self.tokenizer)
        known = [place for place, row in enumerate(rows) if row and all(token in self.classes for token in row)]
        if not known:
            return [None] * len(audio)
        features, frames, lengths = encode(self.model, self.extractor, [audio[place] for place in known])
        targets = [np.array([self.classes[token] for token in rows[place]]) for place in known]
        spans = align(self.model.ctc_log_probs(frames).numpy(), lengths.numpy(), targets)
        found: list[np.ndarray | None] = [None] * len(audio)
        for place, mel, span in zip(known, features, spans, strict=True):
            heard = word_frames(span[: len(words[place])], words[place]) * ENCODER_STRIDE
            if not np.isnan(heard).any():
                found[place] = boundaries(heard, mel.mean(dim=1).numpy(), self.frame_seconds)
        return found


def boundaries(heard: np.ndarray, loudness: np.ndarray, frame_seconds: float) -> np.ndarray:
    """First and last frame of each word [W, 2], loudness [F] -> begin and end in seconds [W, 2]."""
    smooth = np.convolve(np.pad(loudness, 1, mode="edge"), np.ones(3) / 3, mode="valid")
    cuts = [0.0]
    for before, after in zip(heard[:-1, 1].astype(int), heard[1:, 0].astype(int), strict=True):
        cuts.append((before + 1 + np.argmin(smooth[before + 1:after + 1])) if after > before else after)
    cuts.append(len(loudness))
    times = np.stack([np.maximum(cuts[:-1], heard[:, 0] - BEFORE / frame_seconds),
                      np.minimum(cuts[1:], heard[:, 1] + BEHIND / frame_seconds)], axis=1)
    return times * frame_seconds
