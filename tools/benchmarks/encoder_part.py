"""The speech encoder on utterances of 2 to 15 seconds: Whisper in its own regime, and cut to what there is.

*transformers*: Hugging Face's encoder on the same 30-second windows, which ours must equal bit for bit; *padded-30s*:
our own padded regime against the trimmed one. Trimming changes the numbers (`max_abs_diff`: Whisper was trained on
windows of 30 s); what that costs in quality no random model can tell.
"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import Row, extra_peak_mib, row, take_turns
from torch import Tensor
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

from blspkd.data.features import FeatureExtractor, pad_windows
from blspkd.data.pretrained import load_pretrained
from blspkd.models.speech_encoder import SpeechEncoder

UTTERANCES = 4
SIZES = {"cpu": (384, 2, 6), "cuda": (768, 12, 12), "quick": (32, 2, 2)}  # width, layers, heads


def run(device: str, quick: bool = False) -> list[Row]:
    """Rows of part "encoder"."""
    width, layers, heads = SIZES["quick" if quick else device]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        torch.manual_seed(0)
        config = WhisperConfig(d_model=width, encoder_layers=layers, decoder_layers=1, encoder_attention_heads=heads,
                               decoder_attention_heads=heads, encoder_ffn_dim=4 * width, decoder_ffn_dim=64,
                               vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)
        WhisperModel(config).save_pretrained(folder)
        WhisperFeatureExtractor().save_pretrained(folder)
        theirs = load_pretrained(WhisperModel, folder, attn_implementation="sdpa").get_encoder().to(device).eval()
        padded, trimmed = (SpeechEncoder.from_pretrained(folder, pad, "sdpa", torch.float32).to(device).eval()
                           for pad in (True, False))
        inputs = {pad: _features(Path(folder), pad, device) for pad in (True, False)}
        hugging_face = partial(_hugging_face, theirs, *inputs[True])
        padded_run, trimmed_run = partial(padded, *inputs[True]), partial(trimmed, *inputs[False])
        case = f"{layers} layers of {width}, {UTTERANCES} utterances of 2 to 15 s"
        return [_compare(f"{case}, padded", "transformers", padded_run, hugging_face, device),
                _compare(f"{case}, trimmed", "padded-30s", trimmed_run, padded_run, device)]


def _compare(case: str, peer: str, ours: partial, theirs: partial, device: str) -> Row:
    """`max_abs_diff` is that of the real frames."""
    (frames, lengths), (expected, _) = ours(), theirs()
    difference = max(float((frames[i, :n] - expected[i, :n]).abs().max()) for i, n in enumerate(lengths.tolist()))
    turns = take_turns({"ours": ours, peer: theirs}, device, turns=3)
    peaks = {"ours": extra_peak_mib(ours, device), peer: extra_peak_mib(theirs, device)}
    return row("encoder", case, peer, turns, peaks, difference)


def _hugging_face(encoder: torch.nn.Module, features: Tensor, lengths: Tensor, _) -> tuple[Tensor, Tensor]:
    return encoder(features.transpose(1, 2)).last_hidden_state, lengths


def _features(folder: Path, pad_to_30s: bool, device: str) -> tuple[Tensor, Tensor, list[int]]:
    """What `SpeechEncoder` reads: features [W, F, M] on the device, lengths [W], windows."""
    extractor = FeatureExtractor(str(folder), pad_to_30s)
    generator = np.random.default_rng(0)
    loaded = [extractor(0.1 * generator.standard_normal(round(16000 * seconds), dtype=np.float32))
              for seconds in np.linspace(2, 15, UTTERANCES)]
    lengths = torch.tensor([length for item in loaded for length in item.lengths])
    return pad_windows([window for item in loaded for window in item.windows]).to(device), lengths, [1] * len(loaded)
