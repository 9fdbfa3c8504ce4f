"""The application: its routes, and the order in which a request meets them."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from qllava.infer.engine import Engine
from qllava.infer.pool import AnswerPool
from qllava.infer.sampling import Sampling
from qllava.serve.api_error import ApiError, broken
from qllava.serve.completions import Completions, no_such_model
from qllava.serve.desk import Desk
from qllava.serve.dialogue import Dialogue
from qllava.serve.examples import Example
from qllava.serve.guards import Guards, error_response, json_response
from qllava.serve.intake import Intake
from qllava.serve.reception import Reception
from qllava.serve.replies import model_entry, model_list

logger = logging.getLogger(__name__)

# Each may hold one picture at its full size.
_READERS = 2
_JOIN_SECONDS = 10.0


@dataclass(frozen=True)
class Settings:
    """What a server is told.

    Attributes:
        model: the id it serves its model under.
        key: what clients must present, if anything.
        loopback: it listens on a loopback address.
        rows: answers under way at a time.
        queue: requests that wait for one of them.
        remote_images: pictures may be addresses.
        body_bytes: of one request.
        seconds: one request may take.
        sampling: where a request leaves it open.
        page: there is a chat page at `/`; needs the extra `page`.
        examples: pictures and questions that the page offers.
        picture: that the page shows from the start.
    """

    model: str
    key: str | None = field(default=None, repr=False)
    loopback: bool = True
    rows: int = 16
    queue: int = 64
    remote_images: bool = False
    body_bytes: int = 20 << 20
    seconds: float = 300.0
    sampling: Sampling = field(default_factory=Sampling)
    page: bool = False
    examples: tuple[Example, ...] = ()
    picture: Path | None = None


def build_app(engine: Engine, settings: Settings) -> tuple[Guards, Desk]:
    """The ASGI app over a loaded model, and the desk that answers; the app starts it."""
    pool = AnswerPool(engine, max_rows=settings.rows)
    desk = Desk(pool)
    readers = ThreadPoolExecutor(_READERS, "reader")
    intake = Intake(
        pool=pool,
        processor=engine.image_processor,
        max_images=engine.context // engine.tokens_per_image,
        default=settings.sampling,
        executor=readers,
        remote=settings.remote_images,
    )
    reception = Reception(desk, places=settings.rows + settings.queue, seconds=settings.seconds)
    completions = Completions(reception, intake, model=settings.model, body_bytes=settings.body_bytes)
    routes = [
        # Mounted, so that what there is not below /v1 is told in OpenAI's shape whatever else the app has.
        Mount(
            "/v1", routes=[Route("/chat/completions", completions, methods=["POST"]), *_model_routes(settings.model)]
        ),
        Route("/health", lambda _: json_response(_health(reception, desk))),
    ]

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        desk.start()
        yield
        desk.close()
        if not desk.join(_JOIN_SECONDS):
            logger.error("the model is still busy after %g s; leaving it", _JOIN_SECONDS)
        readers.shutdown(wait=False, cancel_futures=True)

    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _http_error, 500: _failure})
    if settings.page:
        from qllava.serve.page import mount_page  # noqa: PLC0415 - Gradio takes seconds to load

        mount_page(
            app,
            Dialogue(reception, intake),
            model=settings.model,
            sampling=settings.sampling,
            examples=settings.examples,
            picture=settings.picture,
            key=settings.key,
            upload_bytes=settings.body_bytes,
        )
    return Guards(app, key=settings.key, loopback=settings.loopback, page=settings.page), desk


def _model_routes(model: str) -> list[Route]:
    created = int(time.time())

    def one(request: Request) -> Response:
        name = request.path_params["name"]
        return (
            json_response(model_entry(model, created)) if name == model else error_response(no_such_model(name, model))
        )

    return [
        Route("/models", lambda _: json_response(model_list(model, created))),
        Route("/models/{name:path}", one),
    ]


def _health(reception: Reception, desk: Desk) -> dict[str, object]:
    return {"status": "ok", "inside": reception.inside, "waiting": desk.waiting, "active": desk.active}


async def _http_error(request: Request, error: Exception) -> Response:
    """A path or method that there is not."""
    if not isinstance(error, HTTPException):
        raise error
    message = error.detail
    if error.status_code == 404:
        message = f"there is nothing at {request.url.path[:80]!r}; the API is at /v1/chat/completions and /v1/models"
    elif error.status_code == 405:
        message = f"{request.method[:20]} does not work at {request.url.path[:80]!r}; see the Allow header"
    return error_response(ApiError(error.status_code, message, headers=error.headers))


async def _failure(_request: Request, _error: Exception) -> Response:
    return error_response(broken())
