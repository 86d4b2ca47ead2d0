"""espeak-ng through ctypes, from the wheel `espeakng-loader`: text to samples and word times.

espeak-ng keeps hidden state: the same text spoken twice in one process gives different samples, also after
`espeak_Terminate`. The same sequence of calls in a fresh process gives the same samples, bit for bit, once the random
numbers that breathy voices use are seeded (espeak-ng seeds them with the time of day). So what must be reproducible is
spoken in a fixed order by a process of its own. One `Espeak` per process.
"""

import ctypes
from ctypes import POINTER, c_int, c_int64, c_short, c_size_t, c_uint, c_void_p
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blspkd.errors import AudioError

SYNCHRONOUS = 2  # espeak_Synth calls back while it speaks and returns when it is done; other modes sleep
CHARS_UTF8 = 1
RANDOM_SEED = 1
RATE, PITCH, RANGE = 1, 3, 4  # espeak_PARAMETER
EVENT_WORD = 1  # espeak_EVENT_TYPE


class _Event(ctypes.Structure):
    _fields_ = [("type", c_int), ("unique_identifier", c_uint), ("text_position", c_int), ("length", c_int),
                ("audio_position", c_int), ("sample", c_int), ("user_data", c_void_p), ("id", c_int64)]


_Callback = ctypes.CFUNCTYPE(c_int, POINTER(c_short), c_int, POINTER(_Event))


@dataclass(frozen=True)
class Speech:
    """`words`: (start in seconds, text up to the next start). Frequent pairs such as "in the" have one start."""

    samples: np.ndarray  # int16 [samples]
    words: list[tuple[float, str]]


class Espeak:
    """The synthesiser. `sampling_rate` is its own, 22050 Hz."""

    def __init__(self):
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._library.espeak_Synth.argtypes = [ctypes.c_char_p, c_size_t, c_uint, c_int, c_uint, c_uint, c_void_p,
                                               c_void_p]
        self.sampling_rate = self._library.espeak_Initialize(SYNCHRONOUS, 0, data_path().as_posix().encode(), 0)
        if self.sampling_rate <= 0:
            raise AudioError(f"espeak-ng does not start with the data in {data_path()}; reinstall espeakng-loader")
        self._library.espeak_ng_SetRandSeed(RANDOM_SEED)
        self._samples: list[bytes] = []
        self._starts: list[tuple[int, int]] = []
        self._callback = _Callback(self._receive)  # kept here: the library only borrows it
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, voice: str, rate: int, pitch: int, pitch_range: int) -> Speech:
        """Say ASCII `text`. `rate` is in words per minute, `pitch` and `pitch_range` are 0-100."""
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise AudioError(f"espeak-ng has no voice '{voice}'")
        for parameter, value in ((RATE, rate), (PITCH, pitch), (RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._samples.clear()
        self._starts.clear()
        encoded = text.encode("ascii") + b"\0"
        self._library.espeak_Synth(encoded, len(encoded), 0, 0, 0, CHARS_UTF8, None, None)
        samples = np.frombuffer(b"".join(self._samples), dtype=np.int16)
        ends = [position for position, _ in self._starts[1:]] + [len(text)]
        words = [(sample / self.sampling_rate, text[position:end].strip())
                 for (position, sample), end in zip(self._starts, ends, strict=True)]
        return Speech(samples, words)

    def _receive(self, wav, count: int, events) -> int:
        if count > 0:
            self._samples.append(ctypes.string_at(wav, 2 * count))
        index = 0
        while events[index].type != 0:
            if events[index].type == EVENT_WORD:
                self._starts.append((events[index].text_position - 1, events[index].sample))
            index += 1
        return 0


def data_path() -> Path:
    """espeak-ng's data folder, from the wheel."""
    import espeakng_loader

    return Path(espeakng_loader.get_data_path())
