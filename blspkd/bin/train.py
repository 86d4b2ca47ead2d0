"""Stage 3: train adapter, PLoRA and encoder of a speech LLM on continuations.

    python -m blspkd.bin.train --config conf/train.yaml --llm LLM --speech_encoder ENCODER \
        --train_dir data/train --valid_dir data/valid --output_dir exp/train [--learning_rate 1e-3 ...]

Any key of the configuration can be set by an option of its name. Where it has `align:`, an alignment without the LLM
comes first, in its folder `align` (training/phases.py). A run that was stopped goes on from its last complete
checkpoint. SIGTERM or SIGUSR1 stops it, with a checkpoint, at the end of a step (training/stopping.py); the exit status
is 75 then.
"""

import argparse
import logging
import os
import sys
import warnings

from blspkd.config import TrainConfig
from blspkd.config_file import load_config
from blspkd.data.operations import make_operations
from blspkd.errors import command
from blspkd.training.signals import handled, stop_at_once


@command
@handled(stop_at_once)
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="conf/train.yaml")
    parser.add_argument("--llm", help="Hugging Face id or folder; overrides the configuration")
    parser.add_argument("--speech_encoder", help="Hugging Face id or folder; overrides the configuration")
    parser.add_argument("--train_dir", required=True, help="data directory, or one that `data_dir pack` made")
    parser.add_argument("--valid_dir", required=True, help="likewise")
    parser.add_argument("--output_dir", required=True, help="exp/<tag>")
    options, overrides = parser.parse_known_args(arguments)
    config = load_config(TrainConfig, options.config, overrides)
    make_operations(config.data.operations, options.config or "defaults")
    config.model.llm = options.llm or config.model.llm
    config.model.speech_encoder = options.speech_encoder or config.model.speech_encoder

    # Imported here, so that --help and mistakes in the options answer at once.
    import torch
    import transformers
    from torch.distributed.elastic.multiprocessing.errors import record

    from blspkd.training.parallel import check_parallel
    from blspkd.training.phase import is_done, train_phase
    from blspkd.training.phases import phases
    from blspkd.training.run import resolved

    first_rank = os.environ.get("RANK", "0") == "0"  # torchrun's; the others only warn
    logging.basicConfig(level=logging.INFO if first_rank else logging.WARNING, stream=sys.stdout,
                        format="%(asctime)s %(message)s")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.set_flush_denormal(True)
    train = train_phase
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        train = record(train)  # tells blspkd.bin.launch of an error
    *before, (last, folder) = every = phases(resolved(config, options.config), options.output_dir)
    for phase, _ in every:
        check_parallel(phase)
    for phase, phase_folder in before:
        phase = resolved(phase)
        if is_done(phase, phase_folder):
            logging.info("%s is there already", phase_folder / "model")
        else:
            train(phase, options.train_dir, options.valid_dir, phase_folder, folder)
    train(last, options.train_dir, options.valid_dir, folder, folder)


if __name__ == "__main__":
    main()
