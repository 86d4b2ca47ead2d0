"""As much of vLLM as blspkd's worker asks of it, for tests without vLLM: the LLM runs in transformers.

STAND_IN in the environment makes it misbehave: "unloadable", "deadly" (killed at the 40th step), "scaling" (embeddings
mean something else than tokens), "slow" (20 ms a step).
"""

import os
import signal
import time
from types import SimpleNamespace

import torch
from transformers import LlamaForCausalLM

from vllm.sampling_params import SamplingParams

__all__ = ["EngineArgs", "LLMEngine", "SamplingParams"]
__version__ = "0.0.stand-in"
BEHAVIOUR = os.environ.get("STAND_IN", "")
ARGUMENTS = {"model", "dtype", "enable_prompt_embeds", "max_model_len", "skip_tokenizer_init", "generation_config",
             "enable_prefix_caching", "enforce_eager", "disable_log_stats", "use_tqdm_on_load",
             "gpu_memory_utilization"}


def EngineArgs(**arguments) -> SimpleNamespace:
    assert not arguments.keys() - ARGUMENTS
    return SimpleNamespace(**arguments)


class LLMEngine:
    def __init__(self, arguments: SimpleNamespace):
        if BEHAVIOUR == "unloadable":
            raise ValueError("no architecture\n of this kind")
        print("printed by vLLM", flush=True)
        self.llm = LlamaForCausalLM.from_pretrained(arguments.model, dtype=arguments.dtype)
        self.model_config = SimpleNamespace(max_model_len=self.llm.config.max_position_embeddings)
        self.running: dict[str, SimpleNamespace] = {}
        self.steps = 0

    @classmethod
    def from_engine_args(cls, arguments: SimpleNamespace) -> "LLMEngine":
        return cls(arguments)

    def add_request(self, number: str, prompt: dict, params: SamplingParams) -> None:
        embed = self.llm.get_input_embeddings()
        rows = embed(torch.tensor(prompt["prompt_token_ids"])) if "prompt_token_ids" in prompt else (
            prompt["prompt_embeds"] * (3 if BEHAVIOUR == "scaling" else 1))
        assert rows.dtype == self.llm.dtype and len(rows) + params.max_tokens <= self.model_config.max_model_len
        draw = torch.Generator().manual_seed(params.seed) if params.seed is not None else torch.Generator()
        self.running[number] = SimpleNamespace(rows=rows, params=params, ids=[], draw=draw)

    def abort_request(self, numbers: list[str]) -> None:
        for number in numbers:
            self.running.pop(number, None)

    def has_unfinished_requests(self) -> bool:
        return bool(self.running)

    @torch.inference_mode()
    def step(self) -> list[SimpleNamespace]:
        self.steps += 1
        if BEHAVIOUR == "slow":
            time.sleep(0.02)
        if BEHAVIOUR == "deadly" and self.steps == 40:
            os.kill(os.getpid(), signal.SIGKILL)
        outputs = [self._next(number, request) for number, request in self.running.items()]
        for output in outputs:
            if output.finished:
                del self.running[output.request_id]
        return outputs

    def _next(self, number: str, request: SimpleNamespace) -> SimpleNamespace:
        scores = self.llm(inputs_embeds=request.rows[None]).logits[0, -1].float()
        params = request.params
        token = int(scores.argmax()) if params.temperature == 0 else int(
            torch.multinomial((scores / params.temperature).softmax(-1), 1, generator=request.draw))
        request.ids.append(token)
        request.rows = torch.cat([request.rows, self.llm.get_input_embeddings()(torch.tensor([token]))])
        finished = token in params.stop_token_ids or len(request.ids) == params.max_tokens
        return SimpleNamespace(request_id=number, finished=finished, outputs=[SimpleNamespace(token_ids=[token])])
