"""A copy of a data directory whose audio has noise at a given signal-to-noise ratio.

The noise is *speech-shaped* (Gaussian, with the long-term average spectrum of the directory's own speech, so that every
band is as noisy as the next) or consists of pieces of recordings. Which noise an utterance gets follows from the seed
and its id alone: not from its neighbours, nor from the number of jobs. It works on directories, not on examples, and so
is none of `OPERATIONS`.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from blspkd.audio import samples as audio
from blspkd.audio.samples import AudioSource
from blspkd.errors import AudioError, ConfigError, DataError
from blspkd.files import atomic_path, atomic_write, read_json, text_digest
from blspkd.kaldi.data_dir import KaldiDir, Utterance, write_table
from blspkd.kaldi.files import data_files
from blspkd.kaldi.verbs import new_directory
from blspkd.progress import progress

RECORD = "noise.json"  # beside the tables: what the directory was made from
WINDOW_SECONDS = 0.032  # of the spectra: bins are 31.25 Hz apart at every sampling rate
SPECTRUM_UTTERANCES = 200  # at most so many are averaged
ENDINGS = (".wav", ".flac", ".ogg", ".mp3", ".sph")  # of noise recordings
PEAK = 32767 / 32768
_REPLACED = ("wav.scp", "segments", "reco2channel", "reco2dur", RECORD)  # every utterance becomes a file of its own

Draw = Callable[[int, int, np.random.Generator], np.ndarray]  # number of samples, sampling rate, randomness -> noise


def add_noise(source: str | os.PathLike, destination: str | os.PathLike, wav_dir: str | os.PathLike, snr_db: float,
              seed: int = 0, noise_dir: str | os.PathLike | None = None, num_jobs: int = 1) -> bool:
    """Write the noisy copy `destination` of data directory `source`, its audio as `wav_dir`/*.wav; False if everything
    is there already.

    Files are 16 bit, one per utterance, at the source's rate. Where a sum would clip, the whole utterance is made
    softer. All other files of the directory are copied. A run that was killed goes on where it was.
    Raises AudioError naming an utterance that cannot be used, DataError or ConfigError for anything else.
    """
    source, destination, wav_dir = Path(source), Path(destination), Path(wav_dir)
    if not np.isfinite(snr_db):
        raise ConfigError(f"snr_db: {snr_db} is not a number of decibels")
    utterances = KaldiDir.read(source, need_text=False).utterances
    recordings = _recordings(Path(noise_dir)) if noise_dir else []
    tables = _tables(source, {Path(audio.file_of(one.audio.path)).resolve() for one in utterances.values()})
    record = {"source": source.as_posix(), "wav_dir": wav_dir.as_posix(), "snr_db": snr_db, "seed": seed,
              "noise": noise_dir and Path(noise_dir).as_posix(),
              "noise files": _digest(_state(str(path)) for path in recordings),
              "audio": _digest(f"{utt_id} {asdict(one.audio)} {_state(audio.file_of(one.audio.path))}"
                               for utt_id, one in utterances.items()),
              "tables": _digest(f"{file.name} {file.read_bytes()!r}" for file in tables)}
    made_from = _digest(str(record[key]) for key in ("snr_db", "seed", "noise files", "audio"))
    files = {utt_id: wav_dir / f"{utt_id}-{made_from}.wav" for utt_id in utterances}
    todo = [utt_id for utt_id, file in files.items() if not file.is_file()]
    if not todo and read_json(destination / RECORD) == record:
        return False
    if todo:
        draw = _pieces(recordings) if recordings else _shaped(speech_spectrum(list(utterances.values())))
        wav_dir.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(wav_dir, files)

        def make(utt_id: str) -> None:
            _make(utterances[utt_id], files[utt_id], draw, snr_db, seed)

        with ThreadPoolExecutor(max(1, num_jobs)) as pool:
            try:
                for _ in progress(pool.map(make, todo), f"noise {destination}", total=len(todo), unit="utt"):
                    pass
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    with new_directory(destination, [source]) as temporary:
        write_table(temporary / "wav.scp", {utt_id: file.as_posix() for utt_id, file in files.items()})
        for file in tables:  # after wav.scp: utt2dur is to be newer
            shutil.copyfile(file, temporary / file.name)
        with atomic_write(temporary / RECORD) as opened:
            json.dump(record, opened, indent=2, ensure_ascii=False)
    return True


def speech_spectrum(utterances: list[Utterance]) -> np.ndarray:
    """Long-term average power density [bins], bin k at k / WINDOW_SECONDS Hz, of speech of equal power.

    At most SPECTRUM_UTTERANCES utterances, evenly spread. Raises AudioError.
    """
    chosen = utterances[::-(-len(utterances) // SPECTRUM_UTTERANCES)]
    total = np.zeros(1)
    for utterance in progress(chosen, "spectrum of the speech", unit="utt", total=len(chosen)):
        samples, rate = _load(utterance)
        size = max(2, round(WINDOW_SECONDS * rate))
        samples = np.pad(samples, (0, max(0, size - len(samples))))
        frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::max(1, size // 2)]
        power = (np.abs(np.fft.rfft(frames * np.hanning(size))) ** 2).mean(axis=0)
        total = np.pad(total, (0, max(0, len(power) - len(total))))
        total[: len(power)] += power / max(power.sum(), 1e-20)
    return total / len(chosen)


def mix(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """speech + noise [samples] with 10 log10(power of speech / power of noise) = snr_db, softer where it would clip."""
    gain = np.sqrt(np.mean(speech**2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
    mixed = speech + gain * noise
    return mixed * min(1.0, PEAK / np.abs(mixed).max())


def _make(utterance: Utterance, file: Path, draw: Draw, snr_db: float, seed: int) -> None:
    speech, rate = _load(utterance)
    if not speech.any():
        raise AudioError(f"utterance {utterance.utt_id}: {utterance.audio.path}: is digital silence, which has no "
                         "signal-to-noise ratio; leave it out")
    stream = int(text_digest(f"{seed} {utterance.utt_id}")[:16], 16)
    noise = draw(len(speech), rate, np.random.default_rng(stream))
    with atomic_path(file) as temporary:
        audio.write_wav(temporary, mix(speech, noise, snr_db), rate)


def _shaped(spectrum: np.ndarray) -> Draw:
    """Gaussian noise of this power density, whatever the sampling rate."""
    frequencies = np.arange(len(spectrum)) / WINDOW_SECONDS

    def draw(size: int, rate: int, random: np.random.Generator) -> np.ndarray:
        white = np.fft.rfft(random.standard_normal(max(size, 16)))
        density = np.interp(np.arange(len(white)) * rate / max(size, 16), frequencies, spectrum, right=0.0)
        return np.fft.irfft(white * np.sqrt(density), max(size, 16))[:size]

    return draw


def _pieces(recordings: list[Path]) -> Draw:
    """A random stretch of a random recording; one that is too short is repeated."""

    def draw(size: int, rate: int, random: np.random.Generator) -> np.ndarray:
        for _ in range(10):
            path = recordings[random.integers(len(recordings))]
            room = audio.duration(AudioSource(path.as_posix(), channel=0)) - size / rate
            start = random.uniform(0, room) if room > 0 else 0.0
            end = start + size / rate if room > 0 else None
            piece = audio.load(AudioSource(path.as_posix(), start, end, channel=0), rate)
            piece = np.resize(piece.astype(np.float64), size)
            if piece.any():
                return piece
        raise AudioError(f"{path.parent}: ten pieces of its recordings were digital silence; take the silent files out")

    return draw


def _load(utterance: Utterance) -> tuple[np.ndarray, int]:
    """float64 [samples] at the file's own rate, and that."""
    try:
        rate = audio.sampling_rate(utterance.audio)
        return audio.load(utterance.audio, rate).astype(np.float64), rate
    except AudioError as error:
        raise AudioError(f"utterance {utterance.utt_id}: {error}") from None


def _recordings(noise_dir: Path) -> list[Path]:
    found = sorted(path for path in noise_dir.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not found:
        raise DataError(f"{noise_dir}: there are no recordings ({', '.join(ENDINGS)}) in it")
    return found


def _tables(source: Path, recordings: set[Path]) -> list[Path]:
    """The files to copy: all but the audio and what says where it is."""
    return [file for file in data_files(source) if file.name not in _REPLACED and file.resolve() not in recordings]


def _clear_leftovers(wav_dir: Path, files: dict[str, Path]) -> None:
    """Half-written files of a run that was killed."""
    names = {file.name for file in files.values()}
    for path in wav_dir.glob("*.wav.tmp-*"):
        if path.name.rpartition(".tmp-")[0] in names:
            path.unlink()


def _state(path: str) -> str:
    known = audio.size_and_date(path)
    return f"{path} {known[0]} {known[1]}" if known else f"{path} missing"  # whoever opens it will say it better


def _digest(parts: Iterable[str]) -> str:
    return text_digest(f"{part}\n" for part in parts)[:12]
