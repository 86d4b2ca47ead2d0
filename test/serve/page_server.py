"""A stand-in of the server for tests of the page: it hears always the same, and does what the user's text says.

And recordings to give to the page.
"""

import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import soundfile

from blspkd.serve.page import page_response

HEARD = {"seconds": 1.5, "alpha": [0.1, 0.6, 0.3] * 25, "frame_seconds": 0.02,
         "tokens": [{"text": " the", "share": 0.9, "end": 0.5}, {"text": " farmer", "share": 0.4, "end": 1.0},
                    {"text": " sold", "share": 1.0, "end": 1.5}]}


class StandIn(ThreadingHTTPServer):
    """Listens on a free port; a context manager that serves meanwhile."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self.asked = []  # bodies of the requests for a reply
        self.gone = threading.Event()  # a client broke off
        self.key = ""

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/":
            page = page_response()
            self.answer(200, page.body, page.headers["Content-Type"], page.headers["Content-Security-Policy"])
        elif self.allowed():
            self.answer(200, {"object": "list", "data": [{"id": "stand-in", "object": "model"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed():
            return
        if self.path == "/v1/hear":
            self.answer(200, HEARD)
            return
        self.server.asked.append(body)
        texts = [part["text"] for part in body["messages"][-1]["content"] if part["type"] == "text"]
        if "refuse" in texts:
            self.answer(400, {"error": {"message": "messages[0]: is refused"}})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            pieces = ["piece "] * 3000 if "slowly" in texts else ["Straße, ", "<b>not bold</b>, ", "Ende"]
            for piece in pieces:
                self.event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
                time.sleep(0.01)
            if "break" not in texts:
                self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
                self.event({"choices": [], "usage": {"completion_tokens": 3}})
                self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.server.gone.set()

    def allowed(self) -> bool:
        if self.server.key and self.headers["Authorization"] != f"Bearer {self.server.key}":
            self.answer(401, {"error": {"message": "a key is needed"}})
            return False
        return True

    def answer(self, status, body, kind="application/json", policy="default-src 'none'"):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Security-Policy", policy), ("Content-Length", len(body))):
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def event(self, data):
        self.wfile.write(f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *args):
        pass


def tone(seconds: float, rate: int) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * 300 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def wav(samples: np.ndarray, rate: int, name: str = "said.wav") -> dict:
    """A file for the upload."""
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format="WAV", subtype="PCM_16")
    return {"name": name, "mimeType": "audio/wav", "buffer": stream.getvalue()}
