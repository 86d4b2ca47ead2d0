"""As much of vLLM as blspkd's worker asks of it, for tests without vLLM; the LLM runs in a few lines of torch.

Neither vLLM nor transformers is imported: this starts once for many tests.

STAND_IN in the environment makes it misbehave: "unloadable", "short" (of memory), "crashing", "telling" (its
environment), "showing" (its arguments), "deadly" (killed at the 40th step), "scaling" (embeddings mean something else
than tokens), "slow" (20 ms a step).
"""

import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from torch.nn.functional import embedding, linear, rms_norm, scaled_dot_product_attention, silu

from vllm.sampling_params import SamplingParams

__all__ = ["EngineArgs", "LLMEngine", "SamplingParams"]
__version__ = "0.0.stand-in"
BEHAVIOUR = os.environ.get("STAND_IN", "")


@dataclass
class EngineArgs:
    model: str
    dtype: str
    skip_tokenizer_init: bool
    generation_config: str
    disable_log_stats: bool
    use_tqdm_on_load: bool
    enforce_eager: bool = False
    enable_chunked_prefill: bool = True
    enable_prompt_embeds: bool = False
    enable_prefix_caching: bool = True
    max_model_len: int = -1
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9


class Llama:
    """Llama (arXiv 2302.13971) with grouped queries (2305.13245), from a folder of transformers'."""

    def __init__(self, folder: str, dtype: str):
        self.config = SimpleNamespace(**json.loads((Path(folder) / "config.json").read_text()))
        self.dtype = getattr(torch, dtype)
        self.weights = {name.removeprefix("model."): weight.to(self.dtype)
                        for name, weight in load_file(Path(folder) / "model.safetensors").items()}
        width = self.config.hidden_size // self.config.num_attention_heads
        speed = self.config.rope_parameters["rope_theta"] ** -(torch.arange(0, width, 2) / width)
        angles = torch.outer(torch.arange(self.config.max_position_embeddings), torch.cat([speed, speed]))
        self.cos, self.sin = angles.cos().to(self.dtype), angles.sin().to(self.dtype)  # [positions, width]

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return embedding(ids, self.weights["embed_tokens.weight"])

    def scores(self, rows: torch.Tensor) -> torch.Tensor:
        """What comes after these embeddings [n, D]: float32 [vocabulary]."""
        for number in range(self.config.num_hidden_layers):
            place = f"layers.{number}"
            rows = rows + self._attention(self._norm(f"{place}.input_layernorm", rows), f"{place}.self_attn")
            inner = self._norm(f"{place}.post_attention_layernorm", rows)
            gated = silu(self._linear(f"{place}.mlp.gate_proj", inner)) * self._linear(f"{place}.mlp.up_proj", inner)
            rows = rows + self._linear(f"{place}.mlp.down_proj", gated)
        return self._linear("lm_head", self._norm("norm", rows[-1])).float()

    def _attention(self, rows: torch.Tensor, place: str) -> torch.Tensor:
        def heads(name: str) -> torch.Tensor:  # [heads, n, width]
            return self._linear(f"{place}.{name}_proj", rows).unflatten(-1, (-1, self.cos.shape[1])).transpose(0, 1)

        def turned(vectors: torch.Tensor) -> torch.Tensor:
            first, second = vectors.chunk(2, dim=-1)
            return vectors * self.cos[:len(rows)] + torch.cat([-second, first], -1) * self.sin[:len(rows)]

        mixed = scaled_dot_product_attention(turned(heads("q"))[None], turned(heads("k"))[None], heads("v")[None],
                                             is_causal=True, enable_gqa=True)[0]
        return self._linear(f"{place}.o_proj", mixed.transpose(0, 1).flatten(1))

    def _linear(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        return linear(rows, self.weights[f"{name}.weight"])

    def _norm(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        return rms_norm(rows, rows.shape[-1:], self.weights[f"{name}.weight"], self.config.rms_norm_eps)


def nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """The most probable tokens that together have at least `top_p` (arXiv 1904.09751)."""
    ordered, order = probabilities.sort(descending=True)
    kept = ordered.cumsum(-1) - ordered < top_p
    return torch.zeros_like(probabilities).scatter(-1, order, ordered * kept)


class LLMEngine:
    def __init__(self, arguments: EngineArgs):
        if BEHAVIOUR == "unloadable":
            raise ValueError("no architecture\n of this kind")
        if BEHAVIOUR == "short":
            raise ValueError("No available memory for the cache blocks")
        if BEHAVIOUR == "crashing":
            print("a bad driver", file=sys.stderr)
            os._exit(3)
        if BEHAVIOUR == "telling":
            names = "OPENAI_API_KEY", "CUDA_VISIBLE_DEVICES"
            raise ValueError(", ".join(f"{name}: {os.environ.get(name)}" for name in names))
        if BEHAVIOUR == "showing":
            raise ValueError(json.dumps(asdict(arguments)))
        print("printed by vLLM", flush=True)
        self.llm = Llama(arguments.model, arguments.dtype)
        most = self.llm.config.max_position_embeddings
        assert arguments.max_model_len <= most
        longest = most if arguments.max_model_len < 0 else arguments.max_model_len
        self.model_config = SimpleNamespace(max_model_len=longest)
        self.running: dict[str, SimpleNamespace] = {}
        self.steps = 0

    @classmethod
    def from_engine_args(cls, arguments: EngineArgs) -> "LLMEngine":
        return cls(arguments)

    def add_request(self, number: str, prompt: dict, params: SamplingParams) -> None:
        rows = self.llm.embed(torch.tensor(prompt["prompt_token_ids"])) if "prompt_token_ids" in prompt else (
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
        scores = self.llm.scores(request.rows)
        params = request.params
        token = int(scores.argmax()) if params.temperature == 0 else int(torch.multinomial(
            nucleus((scores / params.temperature).softmax(-1), params.top_p), 1, generator=request.draw))
        request.ids.append(token)
        request.rows = torch.cat([request.rows, self.llm.embed(torch.tensor([token]))])
        finished = token in params.stop_token_ids or len(request.ids) == params.max_tokens
        return SimpleNamespace(request_id=number, finished=finished, outputs=[SimpleNamespace(token_ids=[token])])
