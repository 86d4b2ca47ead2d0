"""vLLM's side of serving and of stage 2: generates from prompt embeddings or tokens, in an interpreter of its own.

    PYTHON -I worker.py DESCRIPTOR

The two environments have little in common, so this file imports the standard library, torch and vllm, and nothing of
blspkd. DESCRIPTOR is one end of a pair of sockets. What passes there are frames: the sizes of two parts, a JSON object,
and the bytes of a tensor or none. It is told, in this order:

    {"load": folder of the LLM, "dtype": "float32", "options": further arguments of EngineArgs}
    {"generate": number, "shape": [n, D], "sampling": arguments of SamplingParams}, and the prompt's embeddings [n, D]
    {"generate": number, "ids": [...], "sampling": ...}, a prompt of token ids
    {"abort": [number, ...]}

and tells:

    {"context": positions that there are for prompt and reply, "version": of vLLM}, once
    {"tokens": {number: [token id, ...]}, "ended": [number, ...]}, after every step
    {"failed": why}, and ends

It ends, with all processes that it may have started, when the other end is closed.
"""

import importlib
import inspect
import json
import os
import queue
import signal
import socket
import struct
import sys
import threading
from typing import BinaryIO

SIZES = struct.Struct("<IQ")  # bytes of the JSON object and of the tensor
SHARE = 0.8  # of a GPU's free memory


def write_frame(connection: socket.socket, head: dict, body: bytes = b"") -> None:
    """Raises OSError where nobody is at the other end."""
    text = json.dumps(head).encode()
    connection.sendall(SIZES.pack(len(text), len(body)) + text)
    if body:
        connection.sendall(body)


def read_frame(file: BinaryIO) -> tuple[dict, bytes] | None:
    """The next frame; None at the end, or where the other end has gone within a frame."""
    sizes = file.read(SIZES.size)
    if len(sizes) < SIZES.size:
        return None
    of_text, of_body = SIZES.unpack(sizes)
    text, body = file.read(of_text), file.read(of_body)
    return (json.loads(text), body) if len(text) == of_text and len(body) == of_body else None


class Worker:
    """The LLM in vLLM, and the requests that it works on."""

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self.orders: queue.Queue[tuple[dict, bytes]] = queue.Queue()

    def listen(self) -> None:
        """Take orders while the LLM is at work; run by a thread of its own."""
        with self.connection.makefile("rb") as file:
            while (frame := read_frame(file)) is not None:
                self.orders.put(frame)
        os.killpg(os.getpgrp(), signal.SIGKILL)  # it was made the leader of its group

    def run(self) -> None:
        order, _ = self.orders.get()
        # No dependency of blspkd, so that it is not declared as one: it belongs to this interpreter.
        vllm = importlib.import_module("vllm")
        kinds = importlib.import_module("vllm.sampling_params").RequestOutputKind
        self.torch = importlib.import_module("torch")
        self.dtype = getattr(self.torch, order["dtype"])
        options = {
            "model": order["load"], "dtype": order["dtype"],
            "skip_tokenizer_init": True, "generation_config": "vllm",  # tokens, and no defaults of the model's own
            "disable_log_stats": True, "use_tqdm_on_load": False, **self.machine(), **order["options"]}
        if unknown := options.keys() - inspect.signature(vllm.EngineArgs).parameters.keys():
            raise ValueError(f"version {vllm.__version__} has no option {', '.join(sorted(unknown))}; install a newer "
                             "one")
        self.engine = vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**options))
        self.make_sampling = lambda arguments: vllm.SamplingParams(
            detokenize=False, ignore_eos=True, output_kind=kinds.DELTA, **arguments)
        write_frame(self.connection, {"context": self.engine.model_config.max_model_len, "version": vllm.__version__})
        while True:
            while not self.orders.empty() or not self.engine.has_unfinished_requests():
                self.obey(*self.orders.get())
            self.step()

    def machine(self) -> dict:
        """Arguments for a CPU, and for a GPU, of which vLLM takes its share of what is free: a listener may be there.
        """
        if not self.torch.cuda.is_available():
            return {"enforce_eager": True,  # else it compiles for minutes, by a compiler
                    "enable_chunked_prefill": False}  # 0.32 on a CPU dies of a prompt in pieces that has a seed
        free, total = self.torch.cuda.mem_get_info()
        return {"gpu_memory_utilization": SHARE * free / total}

    def obey(self, order: dict, body: bytes) -> None:
        if "abort" in order:
            self.engine.abort_request([str(number) for number in order["abort"]])
            return
        prompt = {"prompt_token_ids": order["ids"]} if "ids" in order else {
            "prompt_embeds": self.torch.frombuffer(bytearray(body), dtype=self.dtype).view(order["shape"])}
        self.engine.add_request(str(order["generate"]), prompt, self.make_sampling(order["sampling"]))

    def step(self) -> None:
        outputs = self.engine.step()
        write_frame(self.connection, {  # a step without tokens, too: our side asks at every step who is cancelled
            "tokens": {output.request_id: list(output.outputs[0].token_ids) for output in outputs},
            "ended": [output.request_id for output in outputs if output.finished]})


def main(words: list[str]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # which are for the server: it finishes what runs, and closes
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=int(words[0]))
    connection.set_inheritable(False)
    worker = Worker(connection)
    threading.Thread(target=worker.listen, daemon=True).start()
    try:
        worker.run()
    except Exception as error:
        write_frame(connection, {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:1000]}"})
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
