"""A server with OpenAI's completions endpoint in front of a small LLM, which can be told to misbehave."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

EXTENSIONS = {"top_k", "min_p", "repetition_penalty", "repeat_penalty", "skip_special_tokens", "stop_token_ids",
              "return_token_ids", "return_tokens_as_token_ids"}


def kept_probabilities(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Probabilities [V]: softmax with a temperature, and of it the most probable tokens that reach top_p."""
    probabilities = torch.softmax(logits.double() / temperature, -1)
    ordered, order = probabilities.sort(descending=True)
    kept = ordered * (ordered.cumsum(-1) - ordered < top_p)
    return torch.zeros_like(probabilities).scatter(-1, order, kept / kept.sum())


class LlmServer(ThreadingHTTPServer):
    """form: how it tells token ids, "token_ids", "logprobs", "text", or "strict" (and it knows no more than OpenAI).

    faults: what happens to the next completions, e.g. 429 or "drop"; always: what happens to all of them.
    """

    daemon_threads = True

    def __init__(self, folder: str):
        super().__init__(("127.0.0.1", 0), Handler)
        self.llm = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.lock = threading.Lock()
        self.scores: dict[tuple[int, ...], torch.Tensor] = {}
        self.released = threading.Event()
        self.three_under_way = threading.Event()
        self.reset()

    def reset(self) -> None:
        self.form, self.knows_echo, self.models, self.version = "token_ids", True, ["tiny"], "1.2.3"
        self.system_fingerprint = "abc"
        self.faults: list = []
        self.always = None
        self.shift = 0  # of the token ids that it tells
        self.seen: list[tuple[str, dict, dict]] = []  # path, headers, body
        self.under_way = self.most_under_way = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address) -> None:
        """Clients go, as they may."""

    @torch.inference_mode()
    def next_scores(self, ids: list[int]) -> torch.Tensor:
        with self.lock:
            if tuple(ids) not in self.scores:
                self.scores[tuple(ids)] = self.llm(torch.tensor([ids])).logits[0, -1]
            return self.scores[tuple(ids)]

    def generate(self, prompt: list[int], body: dict) -> tuple[list[int], str]:
        ends = {self.tokenizer.eos_token_id, *body.get("stop_token_ids", [])}
        draw = torch.Generator().manual_seed(body["seed"]) if "seed" in body else torch.Generator()
        written: list[int] = []
        while len(written) < body["max_tokens"]:
            scores = self.next_scores(prompt + written)
            written.append(int(scores.argmax()) if body["temperature"] == 0 else int(torch.multinomial(
                kept_probabilities(scores, body["temperature"], body["top_p"]), 1, generator=draw)))
            if written[-1] in ends:
                return written, "stop"
        return written, "length"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *words) -> None:
        """Nothing."""

    def tell(self, answer: dict | bytes, status: int = 200, headers: dict | None = None) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers), {}))
        if self.path == "/v1/models" and self.server.models is not None:
            self.tell({"data": [{"id": name, "owned_by": "us"} for name in self.server.models]})
        elif self.path == "/version" and self.server.version:
            self.tell({"version": self.server.version})
        else:
            self.tell({"detail": "Not Found"}, 404)

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.seen.append((self.path, dict(self.headers), body))
        with server.lock:
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
            if server.under_way >= 3:
                server.three_under_way.set()
            fault = server.faults.pop(0) if server.faults else server.always
        try:
            self.misbehave(fault) if fault else self.complete(body)
        finally:
            with server.lock:
                server.under_way -= 1

    def misbehave(self, fault) -> None:
        if fault == "drop":
            self.close_connection = True
        elif fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True
        elif fault == "garbage":
            self.tell(b"<html>hello\nthere</html>")
        elif fault == "hang":
            self.server.released.wait(120)
            self.close_connection = True
        elif fault == "redirect":
            self.tell(b"", 307, {"Location": "http://user:password@elsewhere.test/v1?key=1"})
        elif fault == "slow":
            self.server.three_under_way.wait(60)
            self.misbehave(429)
        elif fault == "echo of the key":
            self.tell({"error": {"message": f"wrong key {self.headers['Authorization']}"}}, 401)
        else:
            self.tell({"error": {"message": f"status {fault} it is\nand more"}}, fault, {"Retry-After": "0"})

    def complete(self, body: dict) -> None:
        server = self.server
        if server.form == "strict" and (extra := EXTENSIONS & body.keys()):
            return self.tell({"error": {"message": f"Unrecognized request argument supplied: {min(extra)}"}}, 400)
        if body["model"] not in (server.models or ["tiny"]):
            return self.tell({"error": {"message": "no such model"}}, 404)
        prompt = body["prompt"]
        ids = server.tokenizer(prompt).input_ids if isinstance(prompt, str) else prompt
        if max(ids) >= server.llm.config.vocab_size:
            return self.tell({"error": {"message": f"token {max(ids)} is out of vocabulary"}}, 400)
        written, reason = server.generate(ids, body)
        shown = [token for token in written if reason != "stop" or token != written[-1]]
        text = server.tokenizer.decode(shown, skip_special_tokens=body.get("skip_special_tokens", True))
        if body.get("echo") and server.knows_echo:
            text = server.tokenizer.decode(ids) + text
        choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": None}
        told = [token + server.shift for token in written]
        if server.form == "token_ids" and body.get("return_token_ids"):
            choice |= {"token_ids": told, "prompt_token_ids": ids}
        if body.get("logprobs") is not None:
            as_ids = server.form in ("token_ids", "logprobs") and body.get("return_tokens_as_token_ids")
            choice["logprobs"] = {"tokens": [f"token_id:{token}" if as_ids else server.tokenizer.decode([token])
                                             for token in told]}
        self.tell({"choices": [choice], "system_fingerprint": server.system_fingerprint})


@pytest.fixture(scope="session")
def nucleus() -> Callable[[torch.Tensor, float, float], torch.Tensor]:
    return kept_probabilities


@pytest.fixture(scope="session")
def serving() -> Callable:
    """`with serving(folder) as server`: an LlmServer that runs."""

    @contextmanager
    def run(folder: str | Path) -> Iterator[LlmServer]:
        server = LlmServer(str(folder))
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join(10)
            server.server_close()

    return run


@pytest.fixture(scope="module")
def running_server(serving, tiny_llm) -> Iterator[LlmServer]:
    with serving(tiny_llm) as server:
        yield server


@pytest.fixture
def server(running_server) -> LlmServer:
    """In front of `tiny_llm`; behaves well until it is told otherwise."""
    running_server.reset()
    return running_server
