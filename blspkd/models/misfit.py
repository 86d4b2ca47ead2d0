"""Why the weights of a trained model do not fit the base models that it is loaded with."""

import re

from blspkd.config import ModelConfig

# torch's words
_MISMATCH = re.compile(r"size mismatch for (\S+): copying a param with shape torch\.Size\(\[(.*?)\]\) from checkpoint, "
                       r"the shape in current model is torch\.Size\(\[(.*?)\]\)")


def misfit(error: Exception, config: ModelConfig, encoder_width: int, llm_width: int) -> str:
    """What to tell of an error that loading the trained weights raised; the widths are those of the base models."""
    text = (f"the weights do not fit {config.speech_encoder} ({encoder_width} wide) and {config.llm} ({llm_width} "
            "wide), or are damaged: ")
    found = _MISMATCH.search(str(error))
    if not found:
        return text + str(error).strip().splitlines()[-1].strip()
    name, saved, here = found.groups()
    if encoder_width != llm_width and "lora_" not in name:  # a weight of the adapter, in which widths can be told
        bases = {str(encoder_width): "a speech encoder", str(llm_width): "an LLM"}
        for before, now in zip(saved.split(", "), here.split(", "), strict=False):
            if before and before != now and now in bases:
                return f"{text}they were trained with {bases[now]} {before} wide ({name})"
    return f"{text}{name} is [{saved}] in the file and [{here}] here"
