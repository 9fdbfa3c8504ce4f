"""`POST /v1/chat/completions`: from a request's bytes to the last byte of its answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send

from qllava.infer.pool import Ending
from qllava.serve.api_error import ApiError, broken
from qllava.serve.chat_request import ChatRequest
from qllava.serve.desk import Done, Piece
from qllava.serve.guards import HEADERS, error_response, json_response
from qllava.serve.intake import Intake
from qllava.serve.reception import Deadline, Events, Reception
from qllava.serve.replies import END, KEEP_ALIVE, Reply, error_event

logger = logging.getLogger(__name__)

# Proxies close a connection on which nothing moves for a minute or so.
_QUIET_SECONDS = 15.0
_BODY_SECONDS = 60.0


class Completions:
    """The endpoint, as an ASGI app."""

    def __init__(self, reception: Reception, intake: Intake, *, model: str, body_bytes: int) -> None:
        """Read requests with `intake`, each of at most `body_bytes`; `model`: the id that is served."""
        self._reception = reception
        self._intake = intake
        self._model = model
        self._body_bytes = body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a client that has gone is no error."""
        request = Request(scope, receive)
        started = time.monotonic()
        counted = "-"
        try:
            with self._reception.place() as deadline:
                counted = await self._answer(request, send, deadline)
            status = 200
        except ClientDisconnect:
            status = 499
        except ApiError as error:
            status = error.status
            if status in (413, 429):
                await _drain(request, self._body_bytes)
            await error_response(error)(scope, receive, send)
        except Exception:
            logger.exception("a request failed")
            status = 500
            await error_response(broken())(scope, receive, send)
        logger.info("chat %d, %.1f s, %s tokens", status, time.monotonic() - started, counted)

    async def _answer(self, request: Request, send: Send, deadline: Deadline) -> str:
        """All of it; returns prompt and answer tokens for the log."""
        async with deadline.watch():
            asked_for = await self._intake.parse(await self._body(request))
            self._check_model(asked_for)
            asked = await self._intake.read(asked_for)
        reply = Reply(self._model, len(asked.ids))
        async with self._reception.answer(asked, deadline) as events:
            watcher = asyncio.create_task(_watch(request.receive, events))
            try:
                if asked_for.stream:
                    include_usage = bool(asked_for.stream_options and asked_for.stream_options.include_usage)
                    tokens = await _stream(events, reply, send, include_usage=include_usage)
                else:
                    text, ending, tokens = await _collect(events)
                    await json_response(reply.whole(text, ending, tokens))(request.scope, request.receive, send)
            finally:
                watcher.cancel()
        return f"{len(asked.ids)} + {tokens}"

    async def _body(self, request: Request) -> bytes:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        # A page of another site can send forms and plain text without asking the browser's leave, JSON it cannot.
        if kind != "application/json":
            raise ApiError(415, f"content-type {kind[:80] or '(none)'} is not read; send application/json")
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self._body_bytes:
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                async for piece in request.stream():
                    body += piece
                    if len(body) > self._body_bytes:
                        raise self._too_large()
        except TimeoutError:
            raise ApiError(408, f"the body did not arrive within {_BODY_SECONDS:g} s; send it faster") from None
        return bytes(body)

    def _too_large(self) -> ApiError:
        limit = self._body_bytes
        return ApiError(
            413, f"the body is larger than {limit:,} bytes; send smaller pictures", code="request_too_large"
        )

    def _check_model(self, request: ChatRequest) -> None:
        if request.model is not None and request.model != self._model:
            raise no_such_model(request.model, self._model)


async def _collect(events: Events) -> tuple[str, Ending, int]:
    """The whole answer, how it ended, and its tokens.

    Raises:
        ApiError: it failed.
        ClientDisconnect: nobody waits for it any more.
    """
    text = ""
    while True:
        event = await events.get()
        if event is None:
            raise ClientDisconnect
        if isinstance(event, ApiError):
            raise event
        if isinstance(event, Done):
            return text, event.ending, event.tokens
        text += event.text


async def _stream(events: Events, reply: Reply, send: Send, *, include_usage: bool) -> int:
    """Send the answer as it comes; returns its tokens."""
    start: dict[str, str] = {**HEADERS, "Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
    headers = [(name.lower().encode(), value.encode()) for name, value in start.items()]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    tokens = 0
    async for piece in _pieces(events, reply):
        if isinstance(piece, int):
            tokens = piece
            if include_usage:
                await send(_part(reply.usage_chunk(tokens)))
        else:
            await send(_part(piece))
    await send({"type": "http.response.body", "body": END, "more_body": False})
    return tokens


async def _pieces(events: Events, reply: Reply) -> AsyncIterator[bytes | int]:
    """Server-sent events, then the number of tokens; after a failure its event alone."""
    yield reply.chunk({"role": "assistant", "content": ""})
    while True:
        try:
            async with asyncio.timeout(_QUIET_SECONDS):
                event = await events.get()
        except TimeoutError:
            yield KEEP_ALIVE
            continue
        if event is None:
            raise ClientDisconnect
        if isinstance(event, Piece):
            yield reply.chunk({"content": event.text})
        elif isinstance(event, Done):
            yield reply.chunk({}, event.ending)
            yield event.tokens
            return
        else:
            yield error_event(event)
            return


def _part(content: bytes) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": True}


async def _watch(receive: Receive, events: Events) -> None:
    """Put None among the events when the client goes."""
    while (await receive())["type"] != "http.disconnect":
        pass
    events.put_nowait(None)


async def _drain(request: Request, limit: int) -> None:
    """Read the rest of a refused request and forget it: a client that is still sending would not see the refusal."""
    read = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(2.0):
            async for piece in request.stream():
                read += len(piece)
                if read > limit:
                    return


def no_such_model(name: str, served: str) -> ApiError:
    """Somebody asks for another model."""
    message = f"there is no model {name[:80]!r} here; this server has {served!r}"
    return ApiError(404, message, param="model", code="model_not_found")
