"""Errors as OpenAI's API shapes them, so that its clients raise what they always raise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_INVALID = "invalid_request_error"


class ApiError(Exception):
    """What a client is told instead of an answer.

    Attributes:
        status: of the HTTP response.
        message: what is wrong, the value, and the fix, in one line.
        kind: OpenAI's `type`.
        param: the field of the request that is at fault.
        code: OpenAI's machine-readable word.
        headers: of the HTTP response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = _INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the response."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that cannot be carried out as it is (400)."""
    return ApiError(400, message, param=param, code=code)


def unauthorized() -> ApiError:
    """No key, or a wrong one; it is not repeated."""
    return ApiError(
        401,
        "this server wants its API key; send it as `Authorization: Bearer KEY`",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def busy(limit: int, retry_after: int) -> ApiError:
    """The queue is full; `retry_after`: seconds."""
    return ApiError(
        429,
        f"{limit} requests are being answered or wait already; try again in {retry_after} s",
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(retry_after)},
    )


def timed_out(seconds: float) -> ApiError:
    """The answer took longer than a request may; `seconds`: how long that is."""
    return ApiError(
        504,
        f"no complete answer within {seconds:g} s; ask for fewer tokens, or start the server with a longer --timeout",
        kind="timeout_error",
        code="timeout",
    )


def stopping() -> ApiError:
    """The server ends before the answer does."""
    return ApiError(503, "the server is being stopped; ask again once it runs", kind="server_error", code="stopping")


def broken() -> ApiError:
    """A failure of ours; what it was stands in the server's log, not in the reply."""
    return ApiError(500, "the server failed on this request; its log says why", kind="server_error", code="internal")
