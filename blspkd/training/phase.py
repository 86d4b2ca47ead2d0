"""One training from its data to its model: the only phase of stage 3, or one of two (phases.py)."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import transformers

from blspkd.config import PromptConfig, TrainConfig, TrainedPrompt
from blspkd.config_file import load_config
from blspkd.data.batching import batches_per_epoch
from blspkd.data.example_columns import LazyExamples, prefixes, token_counts
from blspkd.data.examples import Example, make_examples, without_prompt
from blspkd.data.features import FeatureExtractor
from blspkd.data.operations import apply_operations
from blspkd.data.packed.pack import is_packed
from blspkd.data.packed.packed_dir import PackedDir
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.data.tags import known_tags
from blspkd.errors import ConfigError, writing
from blspkd.kaldi.data_dir import KaldiDir, read_continuations
from blspkd.models.base_models import model_identity
from blspkd.models.model_folder import SpeechLlmConfig
from blspkd.models.speech_llm import SpeechLlm
from blspkd.training.cache import open_caches
from blspkd.training.checkpoint import begun_with, load_deepspeed_safely, newest_checkpoints
from blspkd.training.objective import KdObjective
from blspkd.training.parallel import runs_in_step
from blspkd.training.run import (
    check_continuations,
    check_unchanged,
    describe,
    keep_record,
    prompt_of,
    record_start,
    split_of,
)
from blspkd.training.sharding import Sharding
from blspkd.training.start import freeze, start_from
from blspkd.training.start_counter import start_counter
from blspkd.training.trainer import KdTrainer, optimiser_steps, training_arguments
from blspkd.training.watch import Watch

logger = logging.getLogger(__name__)


def is_done(config: TrainConfig, output_dir: Path) -> bool:
    """Whether this training has finished. Raises ConfigError where it was made with another configuration."""
    if not (output_dir / "model" / "adapter.safetensors").is_file():
        return False
    check_unchanged(config, output_dir, int(os.environ.get("WORLD_SIZE", 1)))
    return True


def train_phase(config: TrainConfig, train_dir: str, valid_dir: str, output_dir: Path, run_dir: Path) -> None:
    """Train and write `output_dir`/model; a training that was stopped goes on from its last complete checkpoint.

    run_dir: exp/<tag>, whose caches all phases share unless `training.cache_dir` names others.
    Raises ConfigError, DataError, ModelError.
    """
    transformers.set_seed(config.training.seed)
    prompt_config = prompt_of(train_dir, config.model.llm, config.loss.distils)
    prompt = Prompt(load_tokenizer(config.model.llm), prompt_config)
    extractor = FeatureExtractor(config.model.speech_encoder, config.model.pad_to_30s)
    check_unchanged(config, output_dir, int(os.environ.get("WORLD_SIZE", 1)))
    examples = {name: _examples(config, folder, name, prompt, output_dir)
                for name, folder in (("train", train_dir), ("valid", valid_dir))}

    if tags := known_tags(examples["train"]):
        prompt_config = TrainedPrompt(**vars(prompt_config), tags=tags)
    objective = KdObjective(_model(config, prompt_config, examples, output_dir), config.loss, config.training.seed)
    speech_llm = objective.speech_llm
    speech_llm.know_text(prompt.text_ids(len(speech_llm.embedding_table)))
    freeze(speech_llm, config.training.freeze_param)
    logger.info(describe(speech_llm))
    if config.training.gradient_checkpointing:
        objective.speech_llm.enable_gradient_checkpointing()
    speech_llm.most_positions = config.training.most_positions
    arguments = training_arguments(config, output_dir)
    now = split_of(config, output_dir, arguments.world_size)
    arguments.gradient_accumulation_steps = now.accumulation
    split = begun_with(output_dir) or now
    if split != now:
        logger.info("this run began with %s, now there are %s: its steps keep their batches, dropout draws other "
                    "numbers", split, now)
    batches = batches_per_epoch(examples["train"], config.data, config.training.seed, split.num_ranks)
    arguments.max_steps = optimiser_steps(config.training, batches, split)
    if config.training.deepspeed:
        load_deepspeed_safely()  # before its checkpoints are looked at
    checkpoints = newest_checkpoints(output_dir, 1)
    if config.training.init_from and not checkpoints:
        start_from(config.training.init_from, objective.speech_llm)
    if config.training.init_ctc_head and not checkpoints:
        start_counter(config.training.init_ctc_head, objective.speech_llm)
    trainer = KdTrainer(objective, config, arguments, examples["train"], examples["valid"], extractor)
    if trainer.is_world_process_zero():
        record_start(config, output_dir)
    # how often the run hears each utterance of a set, on the average
    heard = {"train": arguments.max_steps * split.accumulation / batches,
             "valid": 1 + (arguments.max_steps // config.training.eval_steps if config.training.eval_steps else 0)}
    with Watch(config.training.hang_minutes) as watch:
        trainer.add_callback(watch)
        trainer.cached = open_caches(config, objective.speech_llm, extractor, examples, heard,
                                     Path(config.training.cache_dir or run_dir / "cache"), model_identity,
                                     arguments.device, watch.beat)
        if checkpoints:
            logger.info("going on from %s", checkpoints[0].name)
        with writing(output_dir):  # the Trainer's own files too
            trainer.train(resume_from_checkpoint=str(checkpoints[0]) if checkpoints else None)
        if config.training.average_checkpoints:
            newest = newest_checkpoints(output_dir, config.training.average_checkpoints)
            trainer.load_average(newest)
            logger.info("averaged %s", ", ".join(path.name for path in newest))
        trainer.evaluate()
        trainer.save_model(str(output_dir / "model"))


def _examples(config: TrainConfig, folder: str, name: str, prompt: Prompt, output_dir: Path) -> Sequence[Example]:
    """The examples of a set; an alignment needs no continuations, and takes those without as well."""
    if is_packed(folder):
        data = PackedDir(folder)
        data.check(prompt, config.model.llm)
        selection = data.select(config.data, config.loss.distils)
    else:
        data = KaldiDir.read(folder)
        continuations = read_continuations(Path(folder) / "continuation") if config.loss.distils else None
        if continuations is not None:
            check_continuations(folder, (utterance.utt_id for utterance in data), continuations)
        selection = make_examples(data, continuations, prompt, config.data)
    logger.info("%s: %s", folder, selection)
    examples = selection.examples
    if name == "train" and config.data.operations:
        if isinstance(examples, LazyExamples):
            logger.info("%s: data.operations look at all examples, so that all are made now and stay in memory", folder)
        examples, record = apply_operations(config.data.operations, list(examples), data, config.training.seed, prompt,
                                            config.data.max_tokens)
        if config.training.cache_encoder_frames and any(example.masking for example in examples):
            raise ConfigError("cache_encoder_frames: frames differ from epoch to epoch because of data.operations: "
                              "mask_speech; leave it out, or switch the cache off")
        keep_record(record, output_dir, os.environ.get("RANK", "0") == "0")
    return examples if config.loss.distils else without_prompt(examples)


def _model(config: TrainConfig, prompt_config: PromptConfig, examples: dict[str, Sequence[Example]], output_dir: Path
           ) -> SpeechLlm:
    """The speech LLM to train, the scale of its tokens that of the embeddings of what is said (or of `init_from`)."""
    saved = Path(config.training.init_from) / "config.yaml" if config.training.init_from else None
    scale = load_config(SpeechLlmConfig, saved).model.embedding_rms if saved and saved.is_file() else 0.0
    model = replace(config.model, embedding_rms=config.model.embedding_rms or scale)
    said = torch.from_numpy(token_counts(examples["train"]))
    spread = None
    if config.training.shard_llm != "none":
        device = training_arguments(config, output_dir).device  # the processes find each other
        spread = Sharding.over(config.training.shard_llm, device).load
    speech_llm = SpeechLlm.from_config(model, prompt_config, said, config.loss.distils, spread=spread)
    if runs_in_step(config.training) and len(set().union(*map(prefixes, examples.values()))) > 1:
        speech_llm.shares_prefix = False  # the processes would read prefixes at different times
        logger.info("model.share_prefix: off, for there are several prefixes and the LLM is in parts")
    return speech_llm
