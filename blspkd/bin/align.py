"""Measure alignment: python -m blspkd.bin.align --model_dir exp/tag/model --data_dir data/test --exp_dir exp/tag.

Writes exp/tag/align_<set>/{utterances.jsonl,summary.json} and rows of task `alignment` into exp/tag/results.json; where
weights inside the LLM were trained (PLoRA, LoRA), also rows of task `text`: what that did to its reading of text.
"""

import argparse
import logging
from pathlib import Path

from blspkd.errors import command
from blspkd.evaluation.scorers import load_decode_config


@command
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False,
                                     epilog="batch_size, batch_seconds, part_size, max_utterances, seed, device and "
                                            "num_bootstrap of the configuration are options too: --device cuda")
    parser.add_argument("--config", help="conf/decode.yaml: batches and the device")
    parser.add_argument("--model_dir", required=True, help="folder of a trained model: exp/<tag>/model or a checkpoint")
    parser.add_argument("--data_dir", required=True, help="data directory; `continuation` and `word_times` are used "
                                                          "where they are there")
    parser.add_argument("--exp_dir", required=True, help="exp/<tag>: gets align_<set>")
    parser.add_argument("--train_dir", help="data directory of the training set: slices by the rarity of tokens")
    args, overrides = parser.parse_known_args(words)
    config = load_decode_config(args.config, overrides)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    logging.getLogger("blspkd").setLevel(logging.INFO)

    # Imported here, so that --help and mistakes in the options answer at once.
    from blspkd.evaluation.alignment import align_set
    from blspkd.evaluation.alignment_summary import update_alignment_results, write_summary
    from blspkd.evaluation.decoding import fingerprint_model
    from blspkd.evaluation.scoring import read_experiment
    from blspkd.evaluation.text_drift import measure_text_drift, trains_llm, update_drift_results
    from blspkd.models.base_models import choose_device, model_identity
    from blspkd.models.listener import Listener

    device = choose_device(config.device)
    experiment = read_experiment(args.exp_dir)
    folder = align_set(lambda: Listener.from_pretrained(args.model_dir, device),
                       fingerprint_model(args.model_dir, model_identity), args.data_dir, args.exp_dir, config,
                       args.train_dir)
    set_name, rows = Path(args.data_dir).resolve().name, folder.rows()
    write_summary(folder.path / "summary.json", rows, args.data_dir)
    for row in update_alignment_results(Path(args.exp_dir) / "results.json", rows, experiment, set_name,
                                        config.num_bootstrap, config.seed):
        print(f"{set_name}  {row.metric:20} {row.value:9.3f}  [{row.ci95[0]:.3f}, {row.ci95[1]:.3f}]  n={row.n}")
    if (Path(args.data_dir) / "continuation").exists() and trains_llm(args.model_dir):
        listener = Listener.from_pretrained(args.model_dir, device)
        for row in update_drift_results(Path(args.exp_dir) / "results.json",
                                        measure_text_drift(listener, args.data_dir, config), experiment, set_name,
                                        config):
            print(f"{set_name}  text: {row.metric:14} {row.value:9.5f}  n={row.n}")


if __name__ == "__main__":
    main()
