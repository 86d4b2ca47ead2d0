"""A trained model whose LLM runs in vLLM: listening is ours, and what the LLM reads goes there as prompt embeddings."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from blspkd.errors import ModelError
from blspkd.models.base_models import choose_device
from blspkd.models.chat import SpeechLLM, Turn
from blspkd.models.listener import Listener
from blspkd.models.model_folder import base_folder
from blspkd.models.past import Past
from blspkd.models.reply import ChatOptions, Reply, Watcher, Writer
from blspkd.serve.ears import load_ears
from blspkd.serve.vllm_check import check
from blspkd.vllm.process import VllmProcess

TRIED = 16  # tokens that are generated in two ways, to see that vLLM reads embeddings as it reads tokens


class VllmSpeechLLM(SpeechLLM):
    """As SpeechLLM, but that vLLM writes the replies: greedy ones are equal but for rounding, others are drawn anew."""

    def __init__(self, listener: Listener, process: VllmProcess):
        """Waits until vLLM has loaded the LLM. Raises ModelError where it cannot, or reads embeddings in its own way.
        """
        super().__init__(listener)
        self.process = process
        config = listener.model.config
        self._context = process.load(
            base_folder(config.llm), config.dtype, enable_prompt_embeds=True,
            max_model_len=-1,  # as long as the LLM can and the memory suffices
            enable_prefix_caching=False)["context"]  # some versions take any two prompts of embeddings for the same
        self._try_embeddings()

    @classmethod
    def from_pretrained(cls, name: str | Path, python: str, *, revision: str | None = None, device: str = "auto",
                        dtype: str = "", base_models: Mapping[str, str] | None = None) -> "VllmSpeechLLM":
        """See `SpeechLLM.from_pretrained`; python: an interpreter that has vLLM.

        Raises ConfigError for another, and ModelError for a model with PLoRA, both before anything is loaded.
        """
        check(name, revision, python)
        return cls(load_ears(name, choose_device(device), dtype, revision, base_models), VllmProcess(python))

    @property
    def context(self) -> int:
        return min(super().context, self._context)  # vLLM's may be as much as the memory suffices for

    @torch.inference_mode()
    def generate(self, turns: Sequence[Turn], options: Sequence[ChatOptions],
                 on_text: Callable[[int, str], None] | None = None, cancelled: Callable[[int], bool] | None = None,
                 past: Past | None = None, on_reply: Callable[[int, Reply], None] | None = None) -> list[Reply]:
        """See `SpeechLLM.generate`; past: of no use here. Raises ModelError where vLLM has ended."""
        writers = [Writer(self.listener.tokenizer, chosen, self.context, turn.prompt_tokens, turn.speech_tokens)
                   for turn, chosen in zip(turns, options, strict=True)]
        watcher = Watcher(writers, self.listener.ends, on_text, cancelled, on_reply)
        running: dict[str, int] = {}  # request -> row
        try:
            for row, (turn, writer) in enumerate(zip(turns, writers, strict=True)):
                request = self._send(self.listener.embed(turn.input.pieces), writer.options, self.listener.ends)
                running[request] = row
            while running:
                step = self.process.told()
                _write(step, running, watcher)
                for request in step["ended"]:
                    running.pop(request, None)
                complete = [request for request, row in running.items() if writers[row].finish_reason]
                self.process.abort(complete)
                for request in complete:
                    del running[request]
        except BaseException:
            with suppress(ModelError):  # where vLLM has ended, which is told already
                self.process.abort(running)
            raise
        return [writer.reply for writer in writers]

    def _send(self, prompt: Tensor | list[int], options: ChatOptions, ends: list[int]) -> str:
        """Ask for tokens behind embeddings [n, D], or token ids; returns the request's number."""
        sampling = {"temperature": options.temperature, "top_p": options.top_p, "seed": options.seed,
                    "max_tokens": options.max_new_tokens, "stop_token_ids": ends}
        if isinstance(prompt, Tensor):
            return self.process.ask({"shape": list(prompt.shape)}, sampling,
                                    prompt.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return self.process.ask({"ids": prompt}, sampling)

    @torch.inference_mode()
    def _try_embeddings(self) -> None:
        """Raises ModelError where vLLM makes of embeddings what it does not make of their tokens: it may scale them."""
        prefix, suffix = self.listener.prompt.around()
        options = ChatOptions(TRIED)
        replies = []
        for prompt in (prefix + suffix, self.listener.embed([prefix + suffix])):
            request, ids, ended = self._send(prompt, options, []), [], False
            while not ended:
                step = self.process.told()
                ids += step["tokens"].get(request, [])
                ended = request in step["ended"]
            replies.append(ids)
        if replies[0] != replies[1]:
            raise ModelError(f"{self.listener.model.config.llm}: vLLM does not read embeddings of this LLM as it reads "
                             "its tokens, so that speech would be misunderstood; serve it without --engine vllm")


def _write(step: dict, running: dict[str, int], watcher: Watcher) -> None:
    """Hand the tokens of a step over, and end what ends without a token."""
    for request, row in running.items():
        for token in step["tokens"].get(request, []):
            watcher.add(row, token)
        if watcher.writers[row].finish_reason:
            continue
        if request in step["ended"]:
            watcher.end(row, "length")
        elif request not in step["tokens"] and watcher.cancelled(row):
            watcher.end(row, "cancelled")
