"""Decode test sets: python -m blspkd.bin.decode --model_dir exp/tag/model --data_dir data/test --exp_dir exp/tag.

All tasks and systems of the configuration; what is decoded already, with the same model, data and options, is skipped.
An LLM by itself, without a trained model, decodes the systems that read:
    python -m blspkd.bin.decode --llm LLM --prompt_of data/train --systems "[text, cascade]" \\
        --transcripts exp/cascade/asr_{set} --data_dir data/test --exp_dir exp/cascade --system cascade
"""

import argparse
import logging
from functools import cache
from pathlib import Path

from blspkd.config import ModelConfig
from blspkd.errors import ConfigError, command
from blspkd.evaluation.scorers import load_decode_config


@command
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False,
                                     epilog="every key of the configuration is an option too: --batch_size 8")
    parser.add_argument("--config", help="conf/decode.yaml: tasks and decoding options")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model_dir", help="folder of the trained model, exp/<tag>/model")
    model.add_argument("--llm", help="Hugging Face id or folder of an LLM by itself")
    parser.add_argument("--prompt_of", help="with --llm: data directory with the continuations whose prompt to use")
    parser.add_argument("--system", default="cascade", help="with --llm: the cascade's name in results.json, cascade "
                                                            "or cascade-<name>")
    parser.add_argument("--data_dir", required=True, nargs="+", help="data directories of test sets")
    parser.add_argument("--job", type=int, default=1, help="decode every num_jobs-th of them, from this one on")
    parser.add_argument("--num_jobs", type=int, default=1)
    parser.add_argument("--exp_dir", required=True, help="exp/<tag>: gets decode_<task>_<set>[.text|.chance|.cascade]")
    args, overrides = parser.parse_known_args(words)
    config = load_decode_config(args.config, overrides)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    logging.getLogger("blspkd").setLevel(logging.INFO)

    # Imported here, so that --help and mistakes in the options answer at once.
    from blspkd.evaluation.cascade import describe_experiment
    from blspkd.evaluation.decoding import decode_set, fingerprint_model, fingerprint_text_llm
    from blspkd.evaluation.eval_set import TYPED
    from blspkd.evaluation.task_tags import with_tags
    from blspkd.models.base_models import choose_device, model_identity
    from blspkd.models.listener import Listener
    from blspkd.models.model_folder import read_config
    from blspkd.training.run import prompt_of

    device = choose_device(config.device)
    data_dirs = args.data_dir[args.job - 1::args.num_jobs]
    config = with_tags(config, read_config(Path(args.model_dir)).prompt.tags if args.model_dir else {})
    if args.model_dir:
        def load() -> Listener:
            listener = Listener.from_pretrained(args.model_dir, device, config.dtype)
            listener.decide_numbers(config.count, config.recount_by, config.recount_weight)
            return listener

        listener = cache(load)  # at most once
        fingerprint = fingerprint_model(args.model_dir, model_identity, config.dtype)
        for data_dir in data_dirs:
            decode_set(listener, fingerprint, data_dir, args.exp_dir, config)
        return
    if not args.prompt_of:
        raise ConfigError("prompt_of: an LLM by itself needs it; name the data directory of the continuations")
    if set(config.systems) - set(TYPED):
        raise ConfigError(f"systems: an LLM by itself cannot listen; of {config.systems} only {', '.join(TYPED)} are "
                          "possible, or give --model_dir")
    llm, prompt = ModelConfig(llm=args.llm, dtype=config.dtype or "float32"), prompt_of(Path(args.prompt_of), args.llm)
    fingerprint = fingerprint_text_llm(llm, prompt, model_identity)
    describe_experiment(args.exp_dir, args.system, llm)
    listener = cache(lambda: Listener.from_llm(llm.llm, prompt, llm.dtype, device))
    for data_dir in data_dirs:
        decode_set(listener, fingerprint, data_dir, args.exp_dir, config)


if __name__ == "__main__":
    main()
