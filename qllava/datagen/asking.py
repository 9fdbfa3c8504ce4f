"""Asking for many answers at once: workers that pull, pauses the server asked for, retries, and reasons to stop.

Each worker takes the next request only when it is free, so what is in memory is what is in flight, however long the
list. Nothing is done with an answer before the journal has it on the disk.
"""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from qllava.datagen.money import Budget, usage_of
from qllava.datagen.pictures import data_url
from qllava.datagen.responses import Journal
from qllava.datagen.teachers.dialect import Dialect
from qllava.datagen.teachers.openai_client import RefusedError, RelearntError, Teacher, TryAgainError
from qllava.errors import DataError, TeacherError

_LONGEST_BACKOFF = 60.0
_BREATH = 64
"""Requests that are in the journal already are skipped this many at a time between two looks at the network."""


class Askable(Protocol):
    """A request: `key` (hex) names everything that shapes the answer, `file` the picture that goes with it, if any."""

    @property
    def key(self) -> str:
        """Hex."""

    @property
    def file(self) -> Path | None:
        """A picture on disk."""


AskableT = TypeVar("AskableT", bound=Askable)
RequestT_contra = TypeVar("RequestT_contra", bound=Askable, contravariant=True)


class Builder(Protocol[RequestT_contra]):
    """Turns requests into what is sent and what is kept (`prompting.RequestBuilder` is one)."""

    def parameters(self, request: RequestT_contra, dialect: Dialect, picture: str | None) -> dict[str, Any]:
        """The body of one Chat Completions request; `picture` is its data URL."""

    def most_tokens(self, request: RequestT_contra) -> tuple[int, int]:
        """(prompt, answer) in tokens, at the most, without the picture."""

    def record(self, request: RequestT_contra, response: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
        """What the journal keeps: `key`, `teacher`, `model`, `response` and whatever tells what was asked."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How hard to try: `concurrency` requests at once, `retries` after the first attempt, `backoff_s` before the first.

    `dead_after` attempts in a row without any answer from the server end the run, and as many refusals at its start.
    """

    concurrency: int = 16
    retries: int = 6
    backoff_s: float = 1.0

    @property
    def dead_after(self) -> int:
        """Attempts in a row."""
        return max(10, 2 * self.concurrency)


@dataclass(slots=True)
class Asked:
    """How far it went; `failed` maps a key to what went wrong last; `stopped` says why it ended early."""

    answered: int = 0
    found: int = 0
    retried: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    stopped: str | None = None
    error: TeacherError | None = None
    interrupted: bool = False


View = Callable[[Asked, Budget], None]
"""Called after each answer and each failure."""


class Stop:
    """Asked by Ctrl-C: the first ends the asking, what is in flight is finished; the second ends everything."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    @contextmanager
    def on_interrupt(self, note: Callable[[str], None]) -> Iterator[None]:
        """Handle SIGINT in the block, where this is the main thread."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()

        def interrupt() -> None:
            if self.event.is_set() and task is not None:
                task.cancel()
                return
            self.event.set()
            note("interrupted; finishing what is in flight (again to leave it)")

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop.add_signal_handler(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Inquiry(Generic[AskableT]):
    """Whom to ask, with what money, and where answers go; all that asking needs beside the requests."""

    builder: Builder[AskableT]
    teacher: Teacher
    journal: Journal
    budget: Budget
    stop: Stop
    view: View


async def ask_all(requests: Iterator[AskableT], inquiry: Inquiry[AskableT], policy: Policy) -> Asked:
    """Get an answer for every request that the journal lacks.

    Raises:
        OSError: the journal cannot be written.
    """
    asking = _Asking(requests, inquiry, policy)
    workers = [asyncio.create_task(asking.work()) for _ in range(policy.concurrency)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    asking.asked.interrupted = inquiry.stop.event.is_set() and asking.asked.stopped is None
    return asking.asked


class _Asking(Generic[AskableT]):
    """What the workers of one run share."""

    def __init__(self, requests: Iterator[AskableT], inquiry: Inquiry[AskableT], policy: Policy) -> None:
        self.asked = Asked()
        self._requests = requests
        self._builder = inquiry.builder
        self._teacher = inquiry.teacher
        self._journal = inquiry.journal
        self._budget = inquiry.budget
        self._policy = policy
        self._stop = inquiry.stop.event
        self._view = inquiry.view
        self._settled = asyncio.Event()
        self._not_before = 0.0
        self._silent = 0
        self._refusals = 0
        self._jitter = random.Random()  # noqa: S311 - spreads retries, decides nothing

    async def work(self) -> None:
        """One worker: the next request, until there is none or a reason to stop."""
        skipped = 0
        while not self._ended():
            request = next(self._requests, None)
            if request is None:
                return
            if request.key not in self._journal:
                await self._ask(request)
                continue
            self.asked.found += 1
            skipped += 1
            if skipped % _BREATH == 0:
                self._view(self.asked, self._budget)
                await asyncio.sleep(0)

    async def _ask(self, request: AskableT) -> None:
        try:
            picture = None if request.file is None else await asyncio.to_thread(data_url, request.file)
        except DataError as error:
            self._fail(request, str(error))
            return
        attempt = 0
        while await self._may_send(request):
            bound, dialect = self._bound(request), self._teacher.dialect
            try:
                response = await self._teacher.ask(self._builder.parameters(request, dialect, picture), dialect)
            except RelearntError:
                self._give_back(bound)
            except TryAgainError as failure:
                self._give_back(bound, perhaps_billed=failure.perhaps_billed)
                self._notice(failure)
                attempt += 1
                if attempt > self._policy.retries:
                    self._fail(request, f"{failure}, {attempt} times" if attempt > 1 else str(failure))
                    return
                self.asked.retried += 1
                await self._pause(self._backoff(attempt - 1, failure.wait))
            except RefusedError as refusal:
                self._give_back(bound)
                self._refuse(request, str(refusal))
                return
            except TeacherError as error:
                self._give_back(bound)
                self._end(str(error), error)
                return
            else:
                await self._keep(request, response, dialect, bound)
                return

    async def _keep(self, request: AskableT, response: dict[str, Any], dialect: Dialect, bound: float) -> None:
        self._silent = 0
        await self._journal.append(self._builder.record(request, response, dialect))
        self._budget.settle(bound, usage_of(response))
        self._settled.set()
        self.asked.answered += 1
        self._view(self.asked, self._budget)

    def _give_back(self, bound: float, *, perhaps_billed: bool = False) -> None:
        self._budget.fail(bound, perhaps_billed=perhaps_billed)
        self._settled.set()

    async def _may_send(self, request: AskableT) -> bool:
        """Wait for the server's pause and for money; False when the run has ended meanwhile."""
        while (pause := self._not_before - time.monotonic()) > 0 and not self._ended():
            await self._pause(pause)
        while not self._ended():
            verdict = self._budget.take(self._bound(request))
            if verdict == "go":
                return True
            if verdict == "stop":
                self._end(f"{self._budget.reached} is reached", None)
                return False
            self._settled.clear()
            await self._settled.wait()
        return False

    def _bound(self, request: AskableT) -> float:
        return self._budget.bound(*self._builder.most_tokens(request), pictures=int(request.file is not None))

    def _backoff(self, attempt: int, wait: float | None) -> float:
        """Seconds: what the server asked for, else twice as long each time, by chance up to half shorter."""
        longest = min(_LONGEST_BACKOFF, self._policy.backoff_s * 2.0**attempt)
        if wait is None:
            return longest * self._jitter.uniform(0.5, 1.0)
        self._not_before = max(self._not_before, time.monotonic() + wait)
        return wait + self._policy.backoff_s * self._jitter.uniform(0.0, 0.1)

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless the run is stopped meanwhile."""
        try:
            await asyncio.wait_for(self._stop.wait(), timeout=seconds)
        except TimeoutError:
            return

    def _notice(self, failure: TryAgainError) -> None:
        self._silent = self._silent + 1 if failure.connection else 0
        if self._silent >= self._policy.dead_after and not self._ended():
            error = TeacherError(
                f"the {self._teacher.role} is not there: {self._silent} attempts in a row without an answer "
                f"(the last: {failure}); "
                "start it or check --base-url, then repeat the command"
            )
            self._end(str(error), error)

    def _refuse(self, request: AskableT, reason: str) -> None:
        self._silent = 0
        self._refusals += 1
        self._fail(request, reason)
        if not self.asked.answered and self._refusals >= self._policy.dead_after and not self._ended():
            error = TeacherError(
                f"the {self._teacher.role} refuses every request ({reason}); check {self._teacher.flag} and the prompts"
            )
            self._end(str(error), error)

    def _fail(self, request: AskableT, reason: str) -> None:
        self.asked.failed[request.key] = reason
        self._view(self.asked, self._budget)

    def _end(self, why: str, error: TeacherError | None) -> None:
        if self.asked.stopped is None:
            self.asked.stopped, self.asked.error = why, error
        self._stop.set()
        self._settled.set()

    def _ended(self) -> bool:
        return self._stop.is_set()
