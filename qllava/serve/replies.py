"""What goes back to the client: OpenAI's objects, whole or in chunks."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from qllava.infer.pool import Ending
from qllava.serve.api_error import ApiError

KEEP_ALIVE = b": still here\n\n"
END = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Reply:
    """One answer's identity; every chunk repeats it.

    Attributes:
        model: the id that is served.
        prompt_tokens: image tokens included.
    """

    model: str
    prompt_tokens: int
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: str, ending: Ending, tokens: int) -> dict[str, Any]:
        """A `chat.completion` with usage."""
        message = {"role": "assistant", "content": answer, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": ending}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage(tokens)}

    def chunk(self, delta: dict[str, Any], ending: Ending | None = None) -> bytes:
        """A `chat.completion.chunk` as a server-sent event."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": ending}
        return event({**self._head("chat.completion.chunk"), "choices": [choice]})

    def usage_chunk(self, tokens: int) -> bytes:
        """The last chunk of a stream that was asked to count."""
        return event({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage(tokens)})

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "service_tier": None,
            "system_fingerprint": None,
        }

    def _usage(self, tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.prompt_tokens + tokens,
        }


def event(content: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"


def error_event(error: ApiError) -> bytes:
    """An error after the stream has begun, where the status can no longer say it."""
    return event(error.body)


def model_list(model: str, created: int) -> dict[str, Any]:
    """What `/v1/models` says."""
    return {"object": "list", "data": [model_entry(model, created)]}


def model_entry(model: str, created: int) -> dict[str, Any]:
    """One served model."""
    return {"id": model, "object": "model", "created": created, "owned_by": "qllava"}
