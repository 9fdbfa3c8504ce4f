"""Single calls of the client that are worth repeating: uploads, batches, results."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from qllava.datagen.teachers.openai_client import Teacher, TryAgainError
from qllava.errors import TeacherError

_T = TypeVar("_T")
_ATTEMPTS = 10
_LONGEST_BACKOFF = 60.0


class PatientCalls:
    """Repeats a call through trouble on the way, `backoff_s` seconds before the first repetition; stops with `stop`."""

    def __init__(self, teacher: Teacher, stop: asyncio.Event, backoff_s: float) -> None:
        self._teacher = teacher
        self._stop = stop
        self._backoff_s = backoff_s

    async def call(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """What the call returns.

        Raises:
            TeacherError: the server refuses it, is not there, or the run was stopped while it was not.
        """
        from openai import APIConnectionError, APIStatusError  # noqa: PLC0415

        for attempt in range(_ATTEMPTS):
            wait = min(_LONGEST_BACKOFF, self._backoff_s * 2**attempt)
            try:
                return await call()
            except APIConnectionError as error:
                trouble = f"connection broke ({type(error.__cause__).__name__})"
            except APIStatusError as error:
                meaning = self._teacher.meaning(error)
                if not isinstance(meaning, TryAgainError):
                    raise TeacherError(f"the Batch API refuses: {meaning}; try --teacher openai") from None
                trouble, wait = str(meaning), meaning.wait or wait
            await self.pause(wait)
            if self._stop.is_set():
                break
        raise TeacherError(f"the Batch API does not answer ({trouble}); repeat the command, nothing is submitted twice")

    async def pause(self, seconds: float) -> None:
        """Sleep, unless the run is stopped meanwhile."""
        try:
            await asyncio.wait_for(self._stop.wait(), timeout=seconds)
        except TimeoutError:
            return
