"""Of an LLM what stage 2 knows without its weights: tokenizer, prompt, what ends a turn, and how much it can read."""

from dataclasses import dataclass

from transformers import AutoConfig, PreTrainedTokenizerBase

from blspkd.config import PromptConfig
from blspkd.data.pretrained import load_pretrained
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.errors import ModelError
from blspkd.models.base_models import generation_config


@dataclass(frozen=True)
class TextSide:
    """Whatever runs the LLM, prompts are made and texts are read here."""

    llm: str  # Hugging Face id or folder
    tokenizer: PreTrainedTokenizerBase
    prompt: Prompt
    ends: list[int]  # tokens that end a turn
    context: int | None  # positions; None: its configuration says nothing
    vocabulary: int  # rows of its output

    @classmethod
    def of(cls, llm: str, prompt: PromptConfig) -> "TextSide":
        """Raises ModelError where the LLM's files are not there, or lack something."""
        tokenizer = load_tokenizer(llm)
        rendered = Prompt(tokenizer, prompt)
        try:
            config = load_pretrained(AutoConfig, llm).get_text_config()
        except (OSError, ValueError) as error:
            why = str(error).strip().splitlines()[0]
            raise ModelError(f"{llm}: its configuration cannot be loaded ({why}); name a folder with a saved causal "
                             "LM, or a Hugging Face id") from None
        context = getattr(config, "max_position_embeddings", None)
        return cls(llm, tokenizer, rendered, rendered.ends_of_turn(generation_config(llm)),
                   context if isinstance(context, int) else None, config.vocab_size)
