"""Tiny models with random weights, of the real ones' classes, with which the whole recipe runs without a download.

    python local/debug_models.py --text data/train/text --output_dir exp/debug_models

makes llm/ (Qwen2 with a chat template) and whisper/ (encoder and decoder, windows of 30 s). They have learnt nothing.
"""

import argparse
from pathlib import Path

from blspkd.errors import command
from blspkd.files import atomic_path
from blspkd.kaldi.tables import read_table


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--text", type=Path, required=True, help="transcripts to learn the tokens from")
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()

    # Imported here, so that --help and mistakes in the options answer at once.
    from tiny_models import make_llm, make_whisper

    texts = list(read_table(args.text).values())
    for name, make in (("llm", make_llm), ("whisper", make_whisper)):
        with atomic_path(args.output_dir / name) as folder:
            make(folder, texts)


if __name__ == "__main__":
    main()
