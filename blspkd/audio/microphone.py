"""Records from the microphone with a program that is there: arecord (ALSA), parec (PulseAudio, PipeWire) or ffmpeg."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np

from blspkd.errors import AudioError

RATE = 16000  # Hz
LONGEST = 3600.0  # seconds; a recording that nobody ends stops here
_SOUND = ("pulse", "default") if sys.platform == "linux" else ("avfoundation", ":0")
COMMANDS = {  # each writes 16-bit samples of one channel until it is told to stop
    "arecord": ["-q", "-t", "raw", "-f", "S16_LE", "-r", str(RATE), "-c", "1", "-"],
    "parec": ["--format=s16le", f"--rate={RATE}", "--channels=1", "--latency-msec=50"],
    "ffmpeg": ["-nostdin", "-loglevel", "error", "-f", _SOUND[0], "-i", _SOUND[1], "-ac", "1", "-ar", str(RATE),
               "-f", "s16le", "-"],
}


def recorder() -> str:
    """The program that will record. Raises AudioError where there is none."""
    program = next((name for name in COMMANDS if shutil.which(name)), None)
    if program is None:
        raise AudioError("microphone: there is no program that records; install arecord (package alsa-utils), parec "
                         "(pulseaudio-utils) or ffmpeg, or record a file in another way and name it")
    return program


def record(seconds: float | None = None, wait: Callable[[], object] = lambda: None) -> tuple[int, np.ndarray]:
    """(rate, int16 [samples]) of the default microphone, for `seconds`, or until `wait` returns where that is None.

    Raises AudioError where no program is there that records, or where it fails.
    """
    program = recorder()
    process = subprocess.Popen([program, *COMMANDS[program]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    heard = _Reader(process, round((seconds or LONGEST) * RATE) * 2)
    try:
        if seconds is not None:
            heard.ended.wait(seconds + 10)
        elif not heard.ended.wait(0.3):  # a microphone that is not there has ended by now
            wait()
    finally:
        process.terminate()
        heard.thread.join(5)
        process.kill()
        process.wait()
    samples = np.frombuffer(heard.data[:len(heard.data) // 2 * 2], dtype="<i2")
    if not len(samples):
        reason = process.stderr.read().decode("utf-8", "replace").strip() or "no sound came"
        raise AudioError(f"microphone: {program} cannot record: {reason.splitlines()[0]}; connect a microphone, or "
                         "record a file in another way and name it")
    return RATE, samples


class _Reader:
    """Reads what a recorder writes, up to `size` bytes, in a thread of its own: a full pipe would stop it."""

    def __init__(self, process: subprocess.Popen, size: int):
        self.data = bytearray()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._read, args=(process.stdout, size), daemon=True)
        self.thread.start()

    def _read(self, stream, size: int) -> None:
        while len(self.data) < size and (block := stream.read1(min(1 << 12, size - len(self.data)))):
            self.data += block
        self.ended.set()
