"""Arrays become what the same samples in a file would, or one clear error."""

import numpy as np
import pytest
import soundfile
import torch

from blspkd.audio.samples import load
from blspkd.audio.waveform import as_waveform
from blspkd.errors import AudioError

SPEECH = np.sin(np.arange(4000) / 9) * np.linspace(0, 0.9, 4000)
STORED = {  # dtype: (samples, how a file holds them)
    "int16": ((SPEECH * 2**15).astype(np.int16), "PCM_16"),
    "int32": ((SPEECH * 2**31).astype(np.int32), "PCM_32"),
    "uint8": ((SPEECH * 2**7 + 2**7).astype(np.uint8), "PCM_U8"),
    "float32": (SPEECH.astype(np.float32), "FLOAT"),
    "float64": (SPEECH, "DOUBLE"),
    "float32 above 1": (SPEECH.astype(np.float32) * 1.5, "FLOAT"),
}


@pytest.mark.parametrize("rate", [16000, 8000, 44100])
@pytest.mark.parametrize("dtype", STORED)
def test_an_array_is_read_as_the_file_that_holds_it(dtype, rate, tmp_path):
    samples, subtype = STORED[dtype]
    if subtype == "PCM_U8":  # soundfile writes no uint8
        soundfile.write(tmp_path / "a.wav", (samples.astype(np.int16) - 128) * 256, rate, subtype=subtype)
    else:
        soundfile.write(tmp_path / "a.wav", samples, rate, subtype=subtype)
    waveform = as_waveform(samples, rate, 16000, "it")
    assert waveform.dtype == np.float32 and waveform.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(waveform, load(str(tmp_path / "a.wav"), 16000))


EXPECTED = as_waveform(STORED["float32"][0], 16000, 16000, "it")
SAME = {
    "a list": SPEECH.astype(np.float32).tolist(),
    "a tensor": torch.from_numpy(SPEECH),
    "a tensor with a gradient": torch.from_numpy(SPEECH).requires_grad_(),
    "one channel in front": torch.from_numpy(SPEECH)[None],
    "one channel behind": SPEECH[:, None],
    "another byte order": SPEECH.astype(">f4"),
    "a strided view": np.repeat(SPEECH, 2)[::2],
}


@pytest.mark.parametrize("samples", SAME.values(), ids=SAME)
def test_other_forms_of_the_same_samples_are_the_same_waveform(samples):
    np.testing.assert_array_equal(as_waveform(samples, 16000, 16000, "it"), EXPECTED)


def test_half_precision_is_accepted():
    for samples in (SPEECH.astype(np.float16), torch.from_numpy(SPEECH).bfloat16()):
        np.testing.assert_allclose(as_waveform(samples, 16000, 16000, "it"), EXPECTED, atol=4e-3)


def test_what_was_given_is_not_changed():
    samples = SPEECH.astype(np.float32) * 2
    before = samples.copy()
    as_waveform(samples, 16000, 16000, "it")
    np.testing.assert_array_equal(samples, before)


def spoilt(value: float) -> np.ndarray:
    samples = SPEECH.copy()
    samples[1234] = value
    return samples


MISTAKES = {
    "stereo": (np.stack([SPEECH, SPEECH]), 16000, r"shape \(2, 4000\).*several channels.*choose one"),
    "stereo behind": (np.stack([SPEECH, SPEECH], axis=1), 16000, r"shape \(4000, 2\).*several channels"),
    "three dimensions": (SPEECH[None, None], 16000, r"shape \(1, 1, 4000\)"),
    "a number": (0.5, 16000, r"shape \(\).*list of waveforms"),
    "NaN": (spoilt(np.nan), 16000, "NaN or Inf at sample 1234"),
    "Inf": (torch.from_numpy(spoilt(-np.inf)), 16000, "NaN or Inf at sample 1234"),
    "too large for float32": (spoilt(1e300), 16000, "NaN or Inf at sample 1234"),
    "nothing": (np.zeros(0, np.float32), 16000, "no samples"),
    "nothing in a channel": (np.zeros((1, 0)), 16000, "no samples"),
    "16 bit integers as float": (STORED["int16"][0].astype(np.float32), 16000, r"samples reach 2.926e\+04.*32768"),
    "int64": (STORED["int16"][0].astype(np.int64), 16000, "int64.*int16"),
    "uint16": (STORED["int16"][0].astype(np.uint16), 16000, "uint16"),
    "truth values": (SPEECH > 0, 16000, "bool"),
    "complex numbers": (SPEECH + 1j, 16000, "complex128"),
    "a text": ("speech.wav", 16000, "not samples.*samples.load"),
    "a pair of rate and samples": ((8000, SPEECH), 16000, "not samples.*sampling_rate"),
    "rate 0": (SPEECH, 0, "sampling_rate"),
    "a negative rate": (SPEECH, -16000, "sampling_rate"),
    "an endless rate": (SPEECH, float("inf"), "sampling_rate"),
    "no rate": (SPEECH, "16 kHz", "sampling_rate"),
    "too short at another rate": (SPEECH[:1], 192000, "too short"),
}


@pytest.mark.parametrize("samples, rate, message", MISTAKES.values(), ids=MISTAKES)
def test_everything_else_is_one_clear_error(samples, rate, message):
    with pytest.raises(AudioError, match=f"^it: .*{message}"):
        as_waveform(samples, rate, 16000, "it")
