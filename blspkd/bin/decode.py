"""Decode one test set: python -m blspkd.bin.decode --model_dir exp/tag/model --data_dir data/test --exp_dir exp/tag.

All tasks and systems of the configuration; what is decoded already, with the same model, data and options, is skipped.
"""

import argparse
import logging

from blspkd.config import DecodeConfig, load_config
from blspkd.errors import command


@command
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False,
                                     epilog="every key of the configuration is an option too: --batch_size 8")
    parser.add_argument("--config", help="conf/decode.yaml: tasks and decoding options")
    parser.add_argument("--model_dir", required=True, help="folder of the trained model, exp/<tag>/model")
    parser.add_argument("--data_dir", required=True, help="data directory of the test set")
    parser.add_argument("--exp_dir", required=True, help="exp/<tag>: gets decode_<task>_<set>[.text|.chance]")
    args, overrides = parser.parse_known_args(words)
    config = load_config(DecodeConfig, args.config, overrides)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    logging.getLogger("blspkd").setLevel(logging.INFO)

    # Imported here, so that --help and mistakes in the options answer at once.
    from blspkd.evaluation.decoding import choose_device, decode_set, fingerprint_model
    from blspkd.generation.model_identity import model_identity
    from blspkd.models.listener import Listener

    device = choose_device(config.device)
    decode_set(lambda: Listener.from_pretrained(args.model_dir, device),
               fingerprint_model(args.model_dir, model_identity), args.data_dir, args.exp_dir, config)


if __name__ == "__main__":
    main()
