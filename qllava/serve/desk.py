"""The one thread that runs the model, and the queue before it.

The event loop never waits for the model and the model never for a client: a ticket goes in through a queue of bounded
length, and what happens to it comes back as events through the ticket's own call.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from qllava.infer.pool import AnswerPool, Asked, Ending
from qllava.serve.api_error import ApiError, broken, stopping, timed_out

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """Text of the answer that became certain."""

    text: str


@dataclass(frozen=True)
class Done:
    """The answer is complete; `tokens` were generated."""

    ending: Ending
    tokens: int


Event = Piece | Done | ApiError


@dataclass(frozen=True)
class Ticket:
    """A request in the queue or being answered.

    Attributes:
        asked: what to answer.
        deadline: on the monotonic clock.
        seconds: how long it was given, for the complaint.
        tell: called from the model's thread with each event; the last is a `Done` or an error.
    """

    asked: Asked
    deadline: float
    seconds: float
    tell: Callable[[Event], None]


class Desk:
    """Takes tickets and works on them, as many at once as the pool holds."""

    def __init__(self, pool: AnswerPool) -> None:
        """Answer with `pool`, which from `start` on belongs to the desk's thread (but for its `read`)."""
        self._pool = pool
        self._numbers = itertools.count()
        self._waiting: deque[tuple[int, Ticket]] = deque()
        self._active: dict[int, Ticket] = {}
        self._cancelled: set[int] = set()
        self._closing = False
        self._stirred = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Tickets in the queue."""
        return len(self._waiting)

    @property
    def active(self) -> int:
        """Tickets being answered."""
        return len(self._active)

    def submit(self, ticket: Ticket) -> int:
        """Put a ticket into the queue; returns its number.

        Raises:
            ApiError: the desk is closed.
        """
        with self._stirred:
            if self._closing:
                raise stopping()
            number = next(self._numbers)
            self._waiting.append((number, ticket))
            self._stirred.notify()
        return number

    def cancel(self, number: int) -> None:
        """Nobody waits for this ticket any more: no further event, and its place is free at the next step."""
        with self._stirred:
            self._cancelled.add(number)
            self._stirred.notify()

    def close(self) -> None:
        """End what is not complete yet with an error, and take nothing more."""
        with self._stirred:
            self._closing = True
            self._stirred.notify()

    def join(self, timeout: float) -> bool:
        """Wait for the thread to end after `close`, at most `timeout` seconds; whether it did."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # The model's thread

    def _work(self) -> None:
        while True:
            with self._stirred:
                while not (self._waiting or self._active or self._closing):
                    self._cancelled.clear()  # of tickets that were complete
                    self._stirred.wait()
                left = self._leaving()
                joining = [] if self._closing else self._joining()
            for ticket, error in left:
                ticket.tell(error)
            if self._closing:
                return
            try:
                if joining:
                    self._pool.add([(number, ticket.asked) for number, ticket in joining])
                self._step()
            except Exception:  # whatever it was, the other requests to come are not to blame
                logger.exception("the model failed on %d requests", len(self._active))
                self._fail_all()

    def _leaving(self) -> list[tuple[Ticket, ApiError]]:
        """Take out tickets that are cancelled or late, or all when closing; those to be told, with what."""
        now = time.monotonic()
        told: list[tuple[Ticket, ApiError]] = []
        gone: set[int] = set()
        for number, ticket in [*self._active.items(), *self._waiting]:
            if number not in self._cancelled:
                if self._closing:
                    told.append((ticket, stopping()))
                elif now >= ticket.deadline:
                    told.append((ticket, timed_out(ticket.seconds)))
                else:
                    continue
            gone.add(number)
        if gone:
            self._pool.drop(gone)
            self._active = {number: ticket for number, ticket in self._active.items() if number not in gone}
            self._waiting = deque((number, ticket) for number, ticket in self._waiting if number not in gone)
        self._cancelled.clear()
        return told

    def _joining(self) -> list[tuple[int, Ticket]]:
        """The first of the queue, as many as fit."""
        count = self._pool.fitting(ticket.asked for _, ticket in self._waiting)
        joining = [self._waiting.popleft() for _ in range(count)]
        self._active.update(joining)
        return joining

    def _step(self) -> None:
        for made in self._pool.step():
            ticket = self._active[made.key]
            if made.text:
                ticket.tell(Piece(made.text))
            if made.ending is not None:
                del self._active[made.key]
                ticket.tell(Done(made.ending, made.tokens))

    def _fail_all(self) -> None:
        self._pool.clear()
        failed, self._active = self._active, {}
        for ticket in failed.values():
            ticket.tell(broken())
