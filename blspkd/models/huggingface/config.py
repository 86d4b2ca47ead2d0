"""What makes a trained model's folder one of transformers' kind: config.json, with the model type.

All else about the model stands in config.yaml and base_models.json, in the same folder.
"""

import json
from pathlib import Path
from typing import NoReturn

from transformers import PreTrainedConfig

from blspkd.errors import ConfigError
from blspkd.files import atomic_write

# Stands in `input_ids` where a recording is heard, once for each, however many speech tokens that becomes: how many is
# known only when the model has listened. No vocabulary reaches this number, the largest of 31 bits, so that no text can
# be taken for it; tokenizers decode it to nothing.
AUDIO_TOKEN_ID = 2**31 - 1


class BlspkdConfig(PreTrainedConfig):
    """The model type; `BlspkdForConditionalGeneration.from_pretrained` reads the rest."""

    model_type = "blspkd"
    audio_token_id = AUDIO_TOKEN_ID


def write_config(folder: Path) -> None:
    """Write config.json into the folder of a trained model."""
    with atomic_write(folder / "config.json") as file:
        json.dump({"architectures": ["BlspkdForConditionalGeneration"], "model_type": BlspkdConfig.model_type}, file,
                  indent=1)
        file.write("\n")


def refuse_push() -> NoReturn:
    """transformers' way of uploading knows nothing of base models. Raises ConfigError."""
    raise ConfigError("push_to_hub: save the model in a folder and push that with `blspkd push`, which sees to it that "
                      "others can load it")
