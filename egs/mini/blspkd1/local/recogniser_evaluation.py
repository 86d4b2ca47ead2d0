"""Word error rate of the recogniser, through nothing but Hugging Face's own processor and `generate`."""

import random
from pathlib import Path

import jiwer
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from blspkd.data.audio import load
from blspkd.data.kaldi_dir import KaldiDir


def evaluate_recogniser(model: WhisperForConditionalGeneration, processor: WhisperProcessor, data_dir: Path,
                        max_utterances: int) -> float:
    """WER in percent on (up to) `max_utterances` utterances of `data_dir`."""
    utterances = list(KaldiDir.read(data_dir).utterances.values())
    utterances = random.Random(0).sample(utterances, min(max_utterances, len(utterances)))
    hypotheses = []
    for start in range(0, len(utterances), 50):
        audio = [load(utterance.audio) for utterance in utterances[start:start + 50]]
        hypotheses += transcribe(model, processor, audio)
    return 100 * jiwer.wer([utterance.text for utterance in utterances], hypotheses)


@torch.no_grad()
def transcribe(model: WhisperForConditionalGeneration, processor: WhisperProcessor, audio: list) -> list[str]:
    """audio: waveforms [samples] at 16 kHz -> transcripts."""
    inputs = processor(audio, sampling_rate=processor.feature_extractor.sampling_rate, return_tensors="pt")
    written = processor.batch_decode(model.generate(**inputs, do_sample=False), skip_special_tokens=True)
    return [text.strip() for text in written]
