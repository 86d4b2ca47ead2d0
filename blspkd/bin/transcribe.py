"""Transcribe sets: python -m blspkd.bin.transcribe --recogniser FOLDER --data_dir data/test --output_dir exp/asr_{set}.

Writes a Kaldi `text`, which `python -m blspkd.bin.decode --systems "[cascade]" --transcripts DIR` lets an LLM read.
"""

import argparse
import logging
from functools import cache
from pathlib import Path

from blspkd.config_file import load_config
from blspkd.errors import command
from blspkd.evaluation_config import TranscribeConfig


@command
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False,
                                     epilog="every key of blspkd.evaluation_config.TranscribeConfig is an option too: "
                                            "--batch_size 8 --language en --num_beams 5")
    parser.add_argument("--config", help="YAML file of these keys")
    parser.add_argument("--recogniser", required=True, help="Hugging Face id or folder: Whisper and other sequence-to-"
                                                            "sequence models, or a CTC model")
    parser.add_argument("--data_dir", required=True, nargs="+", help="data directories; their own text is not read")
    parser.add_argument("--output_dir", required=True,
                        help="folder for the transcripts; {set} stands for the set's name")
    parser.add_argument("--job", type=int, default=1, help="transcribe every num_jobs-th of them, from this one on")
    parser.add_argument("--num_jobs", type=int, default=1)
    args, overrides = parser.parse_known_args(words)
    config = load_config(TranscribeConfig, args.config, overrides)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    logging.getLogger("blspkd").setLevel(logging.INFO)

    # Imported here, so that --help and mistakes in the options answer at once.
    from blspkd.evaluation.cascade import transcripts_dir
    from blspkd.evaluation.recogniser import Recogniser, transcribe_set
    from blspkd.models.base_models import choose_device, model_identity

    device = choose_device(config.device)
    recogniser = cache(lambda: Recogniser(args.recogniser, config, device))  # loaded at most once
    for data_dir in args.data_dir[args.job - 1::args.num_jobs]:
        transcribe_set(recogniser, model_identity(args.recogniser), data_dir,
                       transcripts_dir(args.output_dir, Path(data_dir).resolve().name), config)


if __name__ == "__main__":
    main()
