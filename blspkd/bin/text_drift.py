"""What training did to text: python -m blspkd.bin.text_drift --model_dir exp/tag/model --data_dir D --exp_dir exp/tag.

Compares the trained LLM with the base LLM on transcripts and continuations; rows of task `text` in results.json.
"""

import argparse
import logging
from pathlib import Path

from blspkd.config import DecodeConfig, load_config
from blspkd.errors import ConfigError, command


@command
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False,
                                     epilog="batch_size, max_utterances, device and num_bootstrap are options too")
    parser.add_argument("--config", help="conf/decode.yaml: batches and the device")
    parser.add_argument("--model_dir", required=True, help="folder of a trained model with plora_rank")
    parser.add_argument("--data_dir", required=True, help="data directory with `text` and `continuation`")
    parser.add_argument("--exp_dir", required=True, help="exp/<tag>, with results.json")
    args, overrides = parser.parse_known_args(words)
    config = load_config(DecodeConfig, args.config, overrides)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    logging.getLogger("blspkd").setLevel(logging.INFO)

    # Imported here, so that --help and mistakes in the options answer at once.
    from blspkd.evaluation.decoding import choose_device
    from blspkd.evaluation.scoring import read_experiment
    from blspkd.evaluation.text_drift import measure_text_drift, update_drift_results
    from blspkd.models.listener import Listener

    listener = Listener.from_pretrained(args.model_dir, choose_device(config.device))
    if not listener.model.config.plora_rank:
        raise ConfigError(f"{args.model_dir}: nothing inside this LLM was trained (plora_rank is 0)")
    found = measure_text_drift(listener, args.data_dir, config)
    for row in update_drift_results(Path(args.exp_dir) / "results.json", found, read_experiment(args.exp_dir),
                                    Path(args.data_dir).resolve().name, config):
        print(f"{row.set}  {row.metric:15} {row.value:9.5f}  n={row.n}")


if __name__ == "__main__":
    main()
