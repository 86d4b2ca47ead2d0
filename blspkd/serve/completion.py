"""Replies as OpenAI writes them: one object, or a stream of chunks as server-sent events."""

import time
import uuid
from dataclasses import dataclass, field

from blspkd.models.reply import Reply
from blspkd.serve.api_error import ApiError, to_json

END_OF_STREAM = "data: [DONE]\n\n"


@dataclass(frozen=True)
class Completion:
    """What all chunks of one reply have in common."""

    model_name: str
    include_usage: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, reply: Reply) -> dict:
        """The object of a reply that is not streamed."""
        message = {"role": "assistant", "content": reply.text, "refusal": None, "annotations": []}
        return {**self._head("chat.completion"), "usage": usage(reply), "choices": [
            {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish_reason}]}

    def opening(self) -> str:
        """The first event: who speaks."""
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def piece(self, text: str) -> str:
        return self._chunk({"content": text})

    def closing(self, reply: Reply) -> str:
        """The last events: why the reply ends and, where asked for, what it took."""
        events = self._chunk({}, reply.finish_reason)
        if self.include_usage:
            events += _event({**self._head("chat.completion.chunk"), "choices": [], "usage": usage(reply)})
        return events + END_OF_STREAM

    def _chunk(self, delta: dict, finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        without = {"usage": None} if self.include_usage else {}
        return _event({**self._head("chat.completion.chunk"), "choices": [choice], **without})

    def _head(self, kind: str) -> dict:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model_name,
                "system_fingerprint": None}


def usage(reply: Reply) -> dict:
    """Speech tokens are OpenAI's audio tokens; they are part of the prompt's."""
    return {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens,
            "total_tokens": reply.prompt_tokens + reply.completion_tokens,
            "prompt_tokens_details": {"audio_tokens": reply.speech_tokens, "cached_tokens": 0}}


def error_event(error: ApiError) -> str:
    """The last event of a stream that failed: what clients raise."""
    return _event(error.body)


def _event(value: dict) -> str:
    return f"data: {to_json(value)}\n\n"
