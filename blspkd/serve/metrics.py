"""What Prometheus is told: how many requests, how long they took, how large the batches are.

Labels take values from short lists only, whatever clients ask for.
"""

import time

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
ENDPOINTS = ("/", "/health", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/audio/transcriptions", "/v1/hear")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The figures of one server, in a registry of its own."""

    def __init__(self):
        self.registry = CollectorRegistry(auto_describe=True)
        self.requests = Counter("blspkd_requests", "Requests that were answered", ["endpoint", "status"],
                                registry=self.registry)
        self.seconds = Histogram("blspkd_request_seconds", "From a request's head to the end of its answer",
                                 ["endpoint"], buckets=SECONDS, registry=self.registry)
        self.first_token = Histogram("blspkd_first_token_seconds", "From a request's body to its first piece of text",
                                     buckets=SECONDS, registry=self.registry)
        self.queue_length = Gauge("blspkd_queue_length", "Requests that wait for their turn", registry=self.registry)
        self.batch_size = Histogram("blspkd_batch_size", "Requests that are answered together", buckets=SIZES,
                                    registry=self.registry)
        self.audio_seconds = Counter("blspkd_audio_seconds", "Audio that requests brought along",
                                     registry=self.registry)
        self.prompt_tokens = Counter("blspkd_prompt_tokens", "Tokens that were read, those of speech included",
                                     registry=self.registry)
        self.speech_tokens = Counter("blspkd_speech_tokens", "Speech tokens that were read", registry=self.registry)
        self.generated_tokens = Counter("blspkd_generated_tokens", "Tokens that were written", registry=self.registry)

    def answered(self, path: str, status: int, began: float) -> None:
        """A request has its answer; began: by `time.perf_counter`."""
        endpoint = path if path in ENDPOINTS else "/v1/models" if path.startswith("/v1/models/") else "other"
        self.requests.labels(endpoint, str(status)).inc()
        self.seconds.labels(endpoint).observe(time.perf_counter() - began)

    def text(self) -> bytes:
        return generate_latest(self.registry)
