"""Who may come in: checked before a byte of the request is read."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from qllava.serve.api_error import ApiError, unauthorized

# The sign of life says nothing that is worth a key.
_OPEN = "/health"
_API = "/v1"
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guards:
    """Wraps an app: refuses strange hosts, strange pages, and whoever lacks the key.

    A loopback server answers only to loopback names, or a page in the user's browser could reach it through a name of
    its own that leads to 127.0.0.1 (DNS rebinding). A browser says which page asks (`Origin`): only ours may.
    """

    def __init__(self, app: ASGIApp, *, key: str | None, loopback: bool, page: bool = False) -> None:
        """Guard `app`.

        Args:
            app: what is guarded.
            key: what clients must present, if anything.
            loopback: it listens on a loopback address.
            page: it has a page, which asks people for the key by itself: browsers cannot send it as clients do.
        """
        self._app = app
        self._key = None if key is None else key.encode()
        self._loopback = loopback
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        error = self._refusal(scope) if scope["type"] == "http" else None
        if error is not None:
            await error_response(error)(scope, receive, send)
        elif scope["type"] in ("http", "lifespan"):  # nothing here speaks websocket: uvicorn then answers 403
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        host = _hostname(headers.get("host", ""))
        if self._loopback and not is_loopback(host):
            return ApiError(403, "this server answers on localhost only; use http://localhost or http://127.0.0.1")
        origin = headers.get("origin")
        if origin is not None and urlsplit_netloc(origin) != headers.get("host", "").lower():
            return ApiError(403, "pages of other sites may not use this server")
        path: str = scope["path"]
        if self._key is None or path == _OPEN or (self._page and not path.startswith(_API)):
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # latin-1 is how headers are decoded; in constant time, or each wrong guess would tell how far it was right.
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._key):
            return None
        return unauthorized()


def error_response(error: ApiError) -> JSONResponse:
    """An error as a whole response."""
    return JSONResponse(error.body, error.status, {**HEADERS, **error.headers})


def json_response(content: Mapping[str, object]) -> JSONResponse:
    """A result as a whole response."""
    return JSONResponse(content, headers=HEADERS)


def urlsplit_netloc(url: str) -> str:
    """Host and port of a URL, lower case; empty where there is none."""
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""


def _hostname(host: str) -> str:
    """A Host header without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
