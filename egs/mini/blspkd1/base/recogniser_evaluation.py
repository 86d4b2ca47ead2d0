"""Word error rate of the recogniser: as Hugging Face runs it, and of its encoder as this toolkit runs it."""

import random
from pathlib import Path

import jiwer
import numpy as np
import torch
from recogniser_augment import ENCODER_STRIDE
from recogniser_model import RecogniserWithHeads
from speech_set import log_mel
from torch import Tensor
from transformers import (
    PreTrainedTokenizerBase,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from blspkd.audio.samples import load
from blspkd.kaldi.data_dir import KaldiDir, Utterance


def evaluate_recogniser(model: RecogniserWithHeads, processor: WhisperProcessor, ctc_tokens: list[int],
                        llm_tokenizer: PreTrainedTokenizerBase, data_dir: Path,
                        max_utterances: int) -> dict[str, float]:
    """WER in percent on (up to) `max_utterances` utterances of `data_dir`.

    "WER": nothing but Hugging Face's own processor and `generate` (padded regime). "WER of CTC": the encoder in the
    trimmed regime, read by its CTC head; class c of that stands for the LLM's token ctc_tokens[c - 1].
    """
    utterances = list(KaldiDir.read(data_dir).utterances.values())
    utterances = random.Random(0).sample(utterances, min(max_utterances, len(utterances)))
    written, heard = [], []
    for start in range(0, len(utterances), 50):
        audio = load_audio(utterances[start:start + 50])
        written += transcribe(model.model, processor, audio)
        for classes in ctc_classes(model, processor, audio):
            heard.append(llm_tokenizer.decode([ctc_tokens[number - 1] for number in classes]))
    references = [utterance.text for utterance in utterances]
    name = Path(data_dir).name
    return {f"{name} WER": round(100 * jiwer.wer(references, written), 2),
            f"{name} WER of CTC": round(100 * jiwer.wer(references, heard), 2)}


def load_audio(utterances: list[Utterance]) -> list[np.ndarray]:
    return [load(utterance.audio) for utterance in utterances]


@torch.no_grad()
def transcribe(model: WhisperForConditionalGeneration, processor: WhisperProcessor,
               audio: list[np.ndarray]) -> list[str]:
    """audio: waveforms [samples] at 16 kHz -> transcripts."""
    inputs = processor(audio, sampling_rate=processor.feature_extractor.sampling_rate, return_tensors="pt")
    written = processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)
    return [text.strip() for text in written]


@torch.no_grad()
def ctc_classes(model: RecogniserWithHeads, processor: WhisperProcessor, audio: list[np.ndarray]) -> list[list[int]]:
    """The best path of CTC: repetitions joined, blanks (0) left out."""
    _, frames, lengths = encode(model, processor.feature_extractor, audio)
    best = model.ctc_head(frames).argmax(dim=-1)
    paths = []
    for path, length in zip(best, lengths, strict=True):
        paths.append([number for number in torch.unique_consecutive(path[:length]).tolist() if number != 0])
    return paths


@torch.no_grad()
def encode(model: RecogniserWithHeads, extractor: WhisperFeatureExtractor,
           audio: list[np.ndarray]) -> tuple[list[Tensor], Tensor, Tensor]:
    """Waveforms [samples] -> log-mel features [F, M] of each, encoder frames [B, T, C] and how many are real [B]."""
    features = [torch.from_numpy(log_mel(waveform, extractor)) for waveform in audio]
    lengths = torch.tensor([len(mel) for mel in features])
    frames = model.encode(torch.nn.utils.rnn.pad_sequence(features, batch_first=True), lengths)
    return features, frames, (lengths - 1) // ENCODER_STRIDE + 1
