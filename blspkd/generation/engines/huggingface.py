"""transformers, in our process: a sample is the same whatever it shares a batch with (models/sampling.py)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from blspkd.generation.engines.engine import Engine, Request, Written

if TYPE_CHECKING:
    from blspkd.generation.text_side import TextSide


class HuggingFaceEngine(Engine):
    """The reference: any LLM that transformers has a class for."""

    name = "huggingface"

    def recorded(self, options: dict, llm: str) -> dict:
        """As it was before there were other engines, so that what was written then stays as it is."""
        return {key: value for key, value in options.items() if key not in ("engine", "engine_options")}

    def identity(self, llm: str) -> dict[str, str]:
        return {}

    def load(self, text: "TextSide", positions: int, device: str, job: int) -> dict[str, str]:
        # Imported here, as torch is below: other engines do without.
        from blspkd.models.base_models import load_llm
        from blspkd.models.listener import GenerationOptions, Listener, TextLlm

        llm = TextLlm(load_llm(text.llm, self.config.dtype), text.prompt.config).to(device)
        self.listener = Listener(llm, text.tokenizer, None)
        self.generation = GenerationOptions(max_new_tokens=self.config.max_new_tokens)
        return {"device": device.partition(":")[0]}

    def write(self, requests: Sequence[Request]) -> list[Written]:
        import numpy as np

        from blspkd.data.prompts import PromptIds
        from blspkd.models.sampling import UtteranceSampler, uniforms

        config, sampler = self.config, None
        if config.do_sample:
            drawn = np.stack([uniforms(request.seed, config.max_new_tokens) for request in requests])
            sampler = UtteranceSampler(drawn, config.temperature, config.top_p, self.listener.model.device)
        prompts = [PromptIds(request.prefix, [], request.rest) for request in requests]
        replies = self.listener.complete(prompts, self.generation, sampler)
        return [Written.until_end(reply.token_ids, self.listener.ends) for reply in replies]
