"""Stage 3: train adapter, PLoRA and encoder of a speech LLM on continuations.

    python -m blspkd.bin.train --config conf/train.yaml --llm LLM --speech_encoder ENCODER \
        --train_dir data/train --valid_dir data/valid --output_dir exp/train [--learning_rate 1e-3 ...]

Any key of the configuration can be set by an option of its name. A run that was stopped goes on from its last complete
checkpoint.
"""

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path

from blspkd.config import TrainConfig
from blspkd.config_file import load_config
from blspkd.data.operations import apply_operations, make_operations
from blspkd.errors import command, writing


@command
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="conf/train.yaml")
    parser.add_argument("--llm", help="Hugging Face id or folder; overrides the configuration")
    parser.add_argument("--speech_encoder", help="Hugging Face id or folder; overrides the configuration")
    parser.add_argument("--train_dir", required=True)
    parser.add_argument("--valid_dir", required=True)
    parser.add_argument("--output_dir", required=True, help="exp/<tag>")
    options, overrides = parser.parse_known_args(arguments)
    config = load_config(TrainConfig, options.config, overrides)
    make_operations(config.data.operations, options.config or "defaults")
    config.model.llm = options.llm or config.model.llm
    config.model.speech_encoder = options.speech_encoder or config.model.speech_encoder

    # Imported here, so that --help and mistakes in the options answer at once.
    import torch
    import transformers

    from blspkd.data.examples import make_examples
    from blspkd.data.features import FeatureExtractor
    from blspkd.data.prompts import Prompt, load_tokenizer
    from blspkd.kaldi.data_dir import KaldiDir, read_continuations
    from blspkd.models.base_models import model_identity
    from blspkd.models.speech_llm import SpeechLlm
    from blspkd.training.cache import open_caches
    from blspkd.training.checkpoint import Split, begun_with, load_deepspeed_safely, newest_checkpoints
    from blspkd.training.objective import KdObjective
    from blspkd.training.run import (
        check_continuations,
        check_unchanged,
        describe,
        keep_record,
        prompt_of,
        record_start,
        resolved,
    )
    from blspkd.training.start import start_from
    from blspkd.training.trainer import KdTrainer, optimiser_steps, training_arguments

    first_rank = os.environ.get("RANK", "0") == "0"  # torchrun's; the others only warn
    logging.basicConfig(level=logging.INFO if first_rank else logging.WARNING, stream=sys.stdout,
                        format="%(asctime)s %(message)s")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.set_seed(config.training.seed)
    torch.set_flush_denormal(True)

    config = resolved(config, options.config)
    prompt_config = prompt_of(options.train_dir, config.model.llm)
    prompt = Prompt(load_tokenizer(config.model.llm), prompt_config)
    extractor = FeatureExtractor(config.model.speech_encoder, config.model.pad_to_30s)
    check_unchanged(config, options.output_dir, int(os.environ.get("WORLD_SIZE", 1)))
    examples = {}
    for name, folder in ("train", options.train_dir), ("valid", options.valid_dir):
        data, continuations = KaldiDir.read(folder), read_continuations(Path(folder) / "continuation")
        check_continuations(folder, (utterance.utt_id for utterance in data), continuations)
        selection = make_examples(data, continuations, prompt, config.data)
        logging.info("%s: %s", folder, selection)
        examples[name] = selection.examples
        if name == "train" and config.data.operations:
            examples[name], record = apply_operations(config.data.operations, selection.examples, data,
                                                      config.training.seed)
            keep_record(record, options.output_dir, first_rank)

    objective = KdObjective(SpeechLlm.from_config(config.model, prompt_config), config.loss)
    logging.info(describe(objective.speech_llm))
    if config.training.gradient_checkpointing:
        objective.speech_llm.enable_gradient_checkpointing()
    arguments = training_arguments(config, options.output_dir)
    split = begun_with(options.output_dir) or Split(arguments.world_size, arguments.gradient_accumulation_steps)
    if split.num_ranks != arguments.world_size:
        logging.info("this run began with %s: its steps keep their batches, dropout draws other numbers", split)
    arguments.max_steps = optimiser_steps(config, examples["train"], split)
    if config.training.deepspeed:
        load_deepspeed_safely()  # before its checkpoints are looked at
    checkpoints = newest_checkpoints(options.output_dir, 1)
    if config.training.init_from and not checkpoints:
        start_from(config.training.init_from, objective.speech_llm)
    trainer = KdTrainer(objective, config, arguments, examples["train"], examples["valid"], extractor)
    if trainer.is_world_process_zero():
        record_start(config, options.output_dir)
    trainer.cached = open_caches(config, objective.speech_llm, extractor, examples,
                                 Path(config.training.cache_dir or Path(options.output_dir) / "cache"), model_identity,
                                 arguments.device)

    if checkpoints:
        logging.info("going on from %s", checkpoints[0].name)
    with writing(options.output_dir):  # the Trainer's own files too
        trainer.train(resume_from_checkpoint=str(checkpoints[0]) if checkpoints else None)
    if config.training.average_checkpoints:
        newest = newest_checkpoints(options.output_dir, config.training.average_checkpoints)
        trainer.load_average(newest)
        logging.info("averaged %s", ", ".join(path.name for path in newest))
    trainer.evaluate()
    trainer.save_model(str(Path(options.output_dir) / "model"))


if __name__ == "__main__":
    main()
