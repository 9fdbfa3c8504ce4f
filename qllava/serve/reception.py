"""Between those who ask, over HTTP or on the page, and the desk: how many come in, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from qllava.infer.pool import Asked
from qllava.serve.api_error import busy, timed_out
from qllava.serve.desk import Desk, Event, Ticket

# What becomes of a question, in order; None: whoever asked has gone.
Events = asyncio.Queue[Event | None]


@dataclass(frozen=True)
class Deadline:
    """When a request must be complete.

    Attributes:
        at: on the monotonic clock.
        seconds: how long it was given, for the complaint.
    """

    at: float
    seconds: float

    @contextlib.asynccontextmanager
    async def watch(self) -> AsyncIterator[None]:
        """Do the block by then.

        Raises:
            ApiError: it takes longer.
        """
        try:
            async with asyncio.timeout(self.at - time.monotonic()):
                yield
        except TimeoutError:
            raise timed_out(self.seconds) from None


class Reception:
    """Lets questions in and passes them to the desk; lives on the event loop."""

    def __init__(self, desk: Desk, *, places: int, seconds: float) -> None:
        """`places`: questions read, waiting or answered at a time; `seconds`: from a question's first byte on."""
        self._desk = desk
        self._places = places
        self._seconds = seconds
        self._inside = 0
        self._last_seconds = 1.0

    @property
    def inside(self) -> int:
        """Questions being read, waiting or answered."""
        return self._inside

    @contextlib.contextmanager
    def place(self) -> Iterator[Deadline]:
        """One of the places that there are, and the time until when it is one's own.

        Raises:
            ApiError: all are taken; the client is told when to come back.
        """
        if self._inside >= self._places:
            raise busy(self._places, min(60, max(1, math.ceil(self._last_seconds))))
        started = time.monotonic()
        self._inside += 1
        try:
            yield Deadline(started + self._seconds, self._seconds)
            self._last_seconds = time.monotonic() - started
        finally:
            self._inside -= 1

    @contextlib.asynccontextmanager
    async def answer(self, asked: Asked, deadline: Deadline) -> AsyncIterator[Events]:
        """What becomes of a question; leaving the block ends its answer and frees its row.

        Raises:
            ApiError: the desk is closed.
        """
        loop = asyncio.get_running_loop()
        events: Events = asyncio.Queue()

        def tell(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to hear it
                loop.call_soon_threadsafe(events.put_nowait, event)

        number = self._desk.submit(Ticket(asked, deadline.at, deadline.seconds, tell))
        try:
            yield events
        finally:
            self._desk.cancel(number)
