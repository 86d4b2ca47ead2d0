"""What an adapter makes of a recording, to be looked at: firing weights, and speech tokens with their times."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from blspkd.data.features import pad_windows
from blspkd.models.listener import Listener


@dataclass
class HeardToken:
    """A speech token."""

    text: str  # of the text token whose embedding is nearest
    share: float  # how sure that is, from 0 to 1 (nearest.py)
    end: float | None  # seconds at which it fires; None without CIF


@dataclass
class Heard:
    """One recording."""

    seconds: float
    alpha: list[float]  # [T] firing weights as they come, unscaled; [] without CIF
    frame_seconds: float  # of one of alpha's T
    tokens: list[HeardToken]


@torch.inference_mode()
def hear(listener: Listener, waveform: np.ndarray) -> Heard:
    """waveform: float32 [samples] at the listener's rate."""
    model, extractor = listener.model, listener.extractor
    features = extractor(waveform)
    speech = model.speech_tokens(pad_windows(features.windows).to(model.device), torch.tensor(features.lengths),
                                 [len(features.windows)])
    ids, shares = model.nearest(speech.rows())
    rate, seconds = extractor.frames_per_second, len(waveform) / extractor.sampling_rate
    ends: list[float | None] = [None] * len(ids)
    alpha: list[float] = []
    if speech.fire_times is not None:
        ends = [min(max(model.encoder.seconds(place, rate), 0.0), seconds)
                for place in speech.fire_times[0, :len(ids)].tolist()]
        alpha = speech.alpha[0, :int(speech.frame_lengths[0])].tolist()
    texts = _texts(listener.tokenizer, ids.tolist())
    return Heard(seconds, alpha, model.encoder.stride * speech.stacked / rate,
                 [HeardToken(*token) for token in zip(texts, shares.tolist(), ends, strict=True)])


def _texts(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    """What each token adds to the text; nothing for the first part of a character that takes several."""
    texts, text = [], ""
    for number in range(1, len(ids) + 1):
        longer = tokenizer.decode(ids[:number], clean_up_tokenization_spaces=False)
        if longer.endswith("\ufffd"):
            texts.append("")
            continue
        texts.append(longer[len(text):])
        text = longer
    return texts
