"""The chat page in the server's process: at `/`, behind the key, and shut towards everybody else.

Needs the extra `page`; nothing imports this module before a page is asked for, since Gradio takes seconds to load.
"""

from __future__ import annotations

import atexit
import hmac
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qllava.infer.sampling import Sampling
from qllava.serve.dialogue import Dialogue
from qllava.serve.examples import Example
from qllava.serve.page_view import lay_out

# Whatever the components would load, the browser asks this server alone, and no other page may frame this one.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; base-uri 'self'; form-action 'self'; "
    "object-src 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_CSS = ".gradio-container { --text-md: 15px; } footer { display: none !important; }"


def mount_page(
    app: Starlette,
    dialogue: Dialogue,
    *,
    model: str,
    sampling: Sampling,
    examples: Sequence[Example] = (),
    picture: Path | None = None,
    key: str | None = None,
    upload_bytes: int,
) -> None:
    """Show the page at `/` of an app; routes that it has already go first.

    Args:
        app: the server's.
        dialogue: answers.
        model: the served id, for the title.
        sampling: where the controls start.
        examples: pictures and questions on offer.
        picture: shown from the start.
        key: asked for as a password, if there is one.
        upload_bytes: of one picture, at most.
    """
    # Gradio would keep what is uploaded in a folder that all users of the machine share, and for ever.
    folder = tempfile.mkdtemp(prefix="qllava-page-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = folder
    page = lay_out(dialogue, model=model, sampling=sampling, examples=examples, picture=picture)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        auth=None if key is None else _login(key),
        auth_message="The password is this server's API key; any name will do.",
        allowed_paths=[str(example.image) for example in examples],
        max_file_size=upload_bytes,
        show_error=True,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        css=_CSS,
        app_kwargs={"middleware": [Middleware(_Sealed)], "docs_url": None, "redoc_url": None, "openapi_url": None},
    )


def _login(key: str) -> Any:
    """In constant time, as the API compares it."""
    return lambda _name, password: hmac.compare_digest(password.encode(), key.encode())


class _Sealed:
    """Puts the page's headers on whatever Gradio sends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, sealed)
