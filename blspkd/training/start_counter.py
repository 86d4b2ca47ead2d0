"""Start the token counter from a recogniser's own CTC head: `training.init_ctc_head: <folder>/ctc_head.safetensors`.

A recogniser that was trained with CTC over the LLM's tokens hears them before the first step; a new counter takes
hundreds of steps to. The file holds `weight` [K + 1, C] and `bias` [K + 1] over the encoder's frames, class 0 the
blank, and in its header `tokens`: as JSON, the LLM's token that each class from 1 on stands for.
"""

import json
import logging
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from blspkd.errors import ConfigError, ModelError
from blspkd.models.speech_llm import SpeechLlm
from blspkd.models.token_counter import BLANK, token_classes

logger = logging.getLogger(__name__)
UNHEARD = -10.0  # bias of the classes that the head does not have; they can be learnt


def start_counter(path: str | Path, model: SpeechLlm) -> None:
    """Load the head in `path` into the adapter's token counter.

    Raises ConfigError for an adapter whose counter reads other frames or joins tokens of the head in one class, and
    ModelError for a file that holds no such head, or one of another width.
    """
    name = f"training.init_ctc_head: {path}"
    counter, options = getattr(model.adapter, "counter", None), model.config.adapter_options
    if counter is None or options.get("ctc_frames") != "encoder":
        raise ConfigError(f"{name}: is a head on the encoder's frames; set model.adapter_options.ctc_classes, and "
                          "ctc_frames: encoder")
    try:
        with safe_open(path, framework="pt") as file:
            tokens = torch.tensor(json.loads(file.metadata()["tokens"]), dtype=torch.int64)
            weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{name}: holds no CTC head with weight, bias and the tokens of its classes "
                         f"({type(error).__name__}: {error})") from None
    wanted = (len(tokens) + 1, counter.in_features)
    if tokens.dim() != 1 or weight.shape != wanted or bias.shape != wanted[:1]:
        found, needed = (" x ".join(map(str, shape)) for shape in (weight.shape, wanted))
        raise ModelError(f"{name}: its weight is {found}, and {len(tokens)} tokens and the blank on frames of "
                         f"{counter.in_features} need {needed}")
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < len(model.embedding_table):
        raise ModelError(f"{name}: names token {int(tokens.max())}, and the LLM has {len(model.embedding_table)}: the "
                         "recogniser was trained with the tokens of another LLM")
    classes = token_classes(tokens, counter.classes)
    if len(set(classes.tolist())) < len(tokens):
        raise ConfigError(f"{name}: of model.adapter_options.ctc_classes {counter.classes} some stand for several of "
                          f"its {len(tokens)} tokens; set ctc_classes to {len(model.embedding_table)}")
    with torch.no_grad():
        counter.weight.zero_()
        counter.bias.fill_(UNHEARD)
        counter.weight[classes], counter.bias[classes] = weight[1:].to(counter.weight), bias[1:].to(counter.bias)
        counter.weight[BLANK], counter.bias[BLANK] = weight[0].to(counter.weight), bias[0].to(counter.bias)
    logger.info("the token counter starts from %s: %d of its %d classes", path, len(tokens), counter.classes)
