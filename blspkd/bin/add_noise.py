"""Noise for a data set: python -m blspkd.bin.add_noise data/test data/test_snr10 --wav_dir dump/snr10 --snr_db 10.

Writes a data directory with the same utterances, references and speakers, whose audio has noise at exactly that
signal-to-noise ratio: speech-shaped noise, or pieces of the recordings in a folder.
"""

import argparse
from pathlib import Path

from blspkd.errors import command


@command
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1], allow_abbrev=False)
    parser.add_argument("source", metavar="SRC_DIR", type=Path, help="data directory")
    parser.add_argument("destination", metavar="DST_DIR", type=Path, help="data directory to make")
    parser.add_argument("--wav_dir", required=True, type=Path, help="folder for the audio")
    parser.add_argument("--snr_db", required=True, type=float, help="power of the speech to that of the noise, in dB")
    parser.add_argument("--noise_dir", type=Path, help="folder with recordings of noise; default: speech-shaped noise")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--nj", type=int, default=1, help="parallel jobs (default: 1)")
    args = parser.parse_args(words)

    from blspkd.data.operations.noise import add_noise

    made = add_noise(args.source, args.destination, args.wav_dir, args.snr_db, args.seed, args.noise_dir, args.nj)
    print(f"{args.destination}: {'written' if made else 'is up to date'}")


if __name__ == "__main__":
    main()
