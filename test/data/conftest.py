"""A small Kaldi data directory, whole and in order, that tests break in their own ways."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

IDS = ["ann-1", "ann-2", "bob-1", "bob-2", "bob-3", "cem-1"]


def write_lines(file: Path, lines: str | bytes | list[str] | None) -> None:
    """Write lines or raw contents; None removes the file."""
    if lines is None:
        file.unlink(missing_ok=True)
    elif isinstance(lines, bytes):
        file.write_bytes(lines)
    else:
        file.write_text(lines if isinstance(lines, str) else "".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.fixture
def make_dir(tmp_path) -> Callable[..., Path]:
    """make_dir(name="train", **files): six utterances of three speakers; `files` replaces or adds (None: removes)."""
    audio = tmp_path / "audio"
    audio.mkdir()
    for index, utt_id in enumerate(IDS):
        samples = np.sin(np.arange(1600 * (index + 1)) / 9).astype(np.float32) / 3
        soundfile.write(audio / f"{utt_id}.wav", samples, 16000, subtype="PCM_16")

    def make(name: str = "train", **files) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        standard = {
            "wav.scp": [f"{utt_id} {audio}/{utt_id}.wav" for utt_id in IDS],
            "text": [f"{utt_id} some words of {utt_id}" for utt_id in IDS],
            "utt2spk": [f"{utt_id} {utt_id[:3]}" for utt_id in IDS],
            "spk2utt": ["ann ann-1 ann-2", "bob bob-1 bob-2 bob-3", "cem cem-1"],
        }
        replaced = {key.replace("__", "."): value for key, value in files.items()}
        for key, lines in (standard | replaced).items():
            write_lines(folder / key, lines)
        return folder

    return make


@pytest.fixture
def make_rich_dir(make_dir) -> Callable[..., Path]:
    """The same with every optional file, and `segments` that cut two recordings."""
    def make(name: str = "rich", **files) -> Path:
        optional = {
            "segments": [f"{utt_id} {'rec1' if index < 3 else 'rec2'} {index % 3 * 0.1:g} {index % 3 * 0.1 + 0.1:g}"
                         for index, utt_id in enumerate(IDS)],
            "utt2dur": [f"{utt_id} 0.1000" for utt_id in IDS],
            "text__translate": [f"{utt_id} Wörter {utt_id}" for utt_id in IDS],
            "text__qa": [f"{utt_id} yes" for utt_id in IDS[::2]],
            "instruction": [f"{utt_id} Repeat:  twice" for utt_id in IDS],
            "continuation": [f'{utt_id} "and so\\non"' for utt_id in IDS[1:]],
            "word_times": [f"{utt_id} 0.0 0.05 word" for utt_id in IDS],
            "utt2lang": [f"{utt_id} en" for utt_id in IDS],
            "spk2gender": ["ann f", "bob m", "cem m"],
            "emotion": [f"{utt_id} neutral" for utt_id in IDS],
            "README": "made by hand\n",
            "reco2channel": ["rec1 0", "rec2 0"],
        }
        folder = make_dir(name, **(optional | files))
        audio = folder.parent / "audio"
        soundfile.write(audio / "rec1.wav", np.full(4800, 0.1), 16000)
        soundfile.write(audio / "rec2.wav", np.full(4800, 0.2), 16000)
        if "wav__scp" not in files:
            write_lines(folder / "wav.scp", [f"rec1 {audio}/rec1.wav", f"rec2 {audio}/rec2.wav"])
        return folder

    return make
