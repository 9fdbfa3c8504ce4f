"""Listening, and an orderly end."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

import uvicorn

from qllava.errors import UsageError
from qllava.infer.engine import Engine
from qllava.serve.app import Settings, build_app
from qllava.serve.desk import Desk
from qllava.serve.guards import is_loopback

# After the answers under way were told to end, their last bytes may take this long.
_LAST_BYTES = 5


def check_address(host: str, key: str | None) -> bool:
    """Whether `host` is a loopback address.

    Raises:
        UsageError: it is not, and there is no key.
    """
    loopback = is_loopback(host)
    if not loopback and key is None:
        raise UsageError(f"--host {host} lets others in; give them a key with --api-key-env NAME, or keep to 127.0.0.1")
    return loopback


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any that is free.

    Raises:
        UsageError: the address is not this machine's, or the port is taken or not allowed.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except (OSError, UnicodeError, OverflowError) as error:
        where = f"{host} port {port}"
        raise UsageError(f"cannot listen on {where} ({_reason(error)}); choose others with --host and --port") from None


def _reason(error: Exception) -> str:
    """In the system's words: Python adds a clause that repeats the address."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:  # negative: of the look-up
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error)


def run_server(
    engine: Engine, listening: socket.socket, settings: Settings, *, grace: float, ready: Callable[[], None]
) -> None:
    """Serve until SIGTERM or Ctrl-C; then finish what was asked so far, for `grace` seconds at most.

    Args:
        engine: the model.
        listening: of `listen`.
        settings: of the application.
        grace: seconds; what is not complete by then ends with an error.
        ready: called once requests are answered.
    """
    app, desk = build_app(engine, settings)
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=int(grace) + _LAST_BYTES,
    )
    _Server(config, desk, grace, ready).run([listening])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, desk: Desk, grace: float, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._desk = desk
        self._grace = grace
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn alone would cut connections; this way each client is told why its answer ends.
        ending = asyncio.get_running_loop().call_later(self._grace, self._desk.close)
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()
            # uvicorn would raise the signal again, and an end that was asked for is no failure.
            self._captured_signals.clear()
