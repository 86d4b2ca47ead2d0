"""vLLM, in an interpreter of its own: many prompts at once, and LLMs that are larger than a GPU.

Two environments of which one has vLLM: it wants its own torch and transformers. How its process is started and spoken
to is blspkd/vllm.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blspkd.config import ContinuationConfig
from blspkd.errors import ConfigError
from blspkd.generation.engines.engine import Engine, Request, Written, check_temperature
from blspkd.vllm.process import VllmProcess, find_interpreter, vllm_version

if TYPE_CHECKING:
    from blspkd.generation.text_side import TextSide

OPTION = "engine_options.python"
SEED_BITS = 63  # of torch's generators


class VllmEngine(Engine):
    """Greedy continuations are those of transformers, but for rounding; samples are drawn anew, by the same seeds."""

    name = "vllm"

    @dataclass
    class Options:
        python: str = ""  # the interpreter of an environment that has vLLM
        tensor_parallel_size: int = 1  # GPUs that the LLM is spread over

    def __init__(self, options: Options, config: ContinuationConfig):
        super().__init__(options, config)
        check_temperature(config, self.name)
        if not options.python:
            raise ConfigError(f"{OPTION}: name the Python interpreter of an environment that has vLLM, e.g. "
                              f"--{OPTION} vllm/bin/python")
        if options.tensor_parallel_size < 1:
            raise ConfigError(f"engine_options.tensor_parallel_size: {options.tensor_parallel_size} is below 1")
        self.python = find_interpreter(options.python, f"--{OPTION}")

    def identity(self, llm: str) -> dict[str, str]:
        return {"version": vllm_version(self.python, f"--{OPTION}")}

    def load(self, text: "TextSide", positions: int, device: str, job: int) -> dict[str, str]:
        import torch

        from blspkd.models.model_folder import base_folder

        size = self.options.tensor_parallel_size
        environment = gpus_of_job(torch.cuda.device_count() if device != "cpu" else 0, size, job)
        self.ends = text.ends
        self.process = VllmProcess(self.python, environment)
        told = self.process.load(base_folder(text.llm), self.config.dtype, tensor_parallel_size=size,
                                 max_model_len=positions)
        return {"device": device.partition(":")[0], "vllm": told["version"]}

    def write(self, requests: Sequence[Request]) -> list[Written]:
        config = self.config
        chosen = {"temperature": config.temperature, "top_p": config.top_p} if config.do_sample else {
            "temperature": 0.0, "top_p": 1.0}
        ids: dict[str, list[int]] = {}
        for request in requests:
            number = self.process.ask({"ids": request.ids}, {
                **chosen, "seed": request.seed % (1 << SEED_BITS), "max_tokens": config.max_new_tokens,
                "stop_token_ids": self.ends})
            ids[number] = []
        running = set(ids)
        while running:
            step = self.process.told()
            for number, tokens in step["tokens"].items():
                ids[number] += tokens
            running.difference_update(step["ended"])
        return [Written.until_end(written, self.ends) for written in ids.values()]


def gpus_of_job(count: int, size: int, job: int) -> dict[str, str]:
    """The variable that shows `size` of the `count` visible GPUs to the vLLM of job `job`, from 1; {}: none has any.

    Jobs take turns over groups of GPUs. Raises ConfigError where there are fewer than `size`.
    """
    if not count:
        return {}
    if size > count:
        raise ConfigError(f"engine_options.tensor_parallel_size: {size} GPUs are asked for, a job sees {count}; lower "
                          "it, or give each job more (--continuation_gpus of the recipe)")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    first = (job - 1) % (count // size) * size
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible.split(",")[first:first + size])}
