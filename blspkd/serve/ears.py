"""A listener without the LLM behind it: speech encoder, adapter and the LLM's text embeddings, for an LLM elsewhere."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import nn
from transformers import AutoConfig, GenerationConfig, PretrainedConfig

from blspkd.data.features import FeatureExtractor
from blspkd.data.pretrained import load_pretrained
from blspkd.data.prompts import load_tokenizer
from blspkd.models.base_models import generation_config
from blspkd.models.embedding_table import EmbeddingTable
from blspkd.models.listener import Listener
from blspkd.models.model_folder import find_folder, locate_base_models, read_config
from blspkd.models.speech_llm import SpeechLlm


class LlmFront(EmbeddingTable):
    """Of an LLM what stands before its layers, and what its files say of it."""

    def __init__(self, embeddings: nn.Module, config: PretrainedConfig, generation_config: GenerationConfig):
        super().__init__(embeddings)
        self.config, self.generation_config = config, generation_config
        self.head = nn.Identity()

    def get_output_embeddings(self) -> nn.Module:
        """What a listener prepares for its LLM, and nobody calls here."""
        return self.head


def load_ears(name: str | Path, device: str = "cpu", dtype: str = "", revision: str | None = None,
              base_models: Mapping[str, str | Path] | None = None) -> Listener:
    """The trained model `name`, without PLoRA, as a listener that makes what its LLM reads, and generates nothing.

    See `Listener.from_pretrained`. Raises ModelError.
    """
    folder = find_folder(name, revision)
    saved = read_config(folder)
    config = locate_base_models(folder, saved.model, base_models)
    model = SpeechLlm.from_config(replace(config, dtype=dtype or config.dtype), saved.prompt, with_llm=False)
    model.load_trained(folder)
    llm = model.config.llm
    model.llm = LlmFront(model.llm.get_input_embeddings(), load_pretrained(AutoConfig, llm), generation_config(llm))
    extractor = FeatureExtractor(model.config.speech_encoder, model.config.pad_to_30s)
    return Listener(model.to(device), load_tokenizer(llm), extractor)
