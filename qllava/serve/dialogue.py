"""What the chat page asks: one question in conversations side by side, with the picture and without it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from qllava.infer.pool import Ending
from qllava.infer.sampling import Sampling
from qllava.serve.api_error import ApiError, broken
from qllava.serve.desk import Done
from qllava.serve.intake import Intake
from qllava.serve.reception import Events, Reception
from qllava.types import IMAGE, Message, text

logger = logging.getLogger(__name__)

# A page that was closed is noticed when there is something to tell it; so there is, at least this often.
_QUIET_SECONDS = 1.0


@dataclass(frozen=True)
class Talk:
    """What was said so far with one of them.

    Attributes:
        said: question and answer in turn.
        picture: the file that the first question shows; None in a blind conversation. An answer that saw the picture
            would tell of it, so a blind conversation holds only what was asked and said blind.
    """

    said: tuple[tuple[str, str], ...] = ()
    picture: bytes | None = None

    def messages(self, question: str) -> list[Message]:
        """The conversation up to the next question."""
        messages: list[Message] = []
        for asked, answered in self.said:
            messages.append({"role": "user", "content": [text(asked)]})
            messages.append({"role": "assistant", "content": [text(answered)]})
        messages.append({"role": "user", "content": [text(question)]})
        if self.picture is not None:
            messages[0] = {"role": "user", "content": [IMAGE, *messages[0]["content"]]}
        return messages


@dataclass
class Answer:
    """What a talk answers, as far as it is known.

    Attributes:
        text: so far.
        ending: once it is complete.
        error: once it has failed.
    """

    text: str = ""
    ending: Ending | None = None
    error: str | None = None


class Dialogue:
    """Asks as an API client does: through the same reception, so the same limits hold."""

    def __init__(self, reception: Reception, intake: Intake) -> None:
        self._reception = reception
        self._intake = intake

    async def ask(self, question: str, talks: Sequence[Talk], sampling: Sampling) -> AsyncIterator[tuple[Answer, ...]]:
        """The answers of all talks, again whenever there is more of one; the last time all are complete.

        To close the iterator ends the answers.
        """
        answers = tuple(Answer() for _ in talks)
        stirred = asyncio.Event()
        tasks = [
            asyncio.create_task(self._answer(question, talk, sampling, answer, stirred))
            for talk, answer in zip(talks, answers, strict=True)
        ]
        try:
            while not all(task.done() for task in tasks):
                stirred.clear()
                yield answers
                try:
                    async with asyncio.timeout(_QUIET_SECONDS):
                        await stirred.wait()
                except TimeoutError:
                    continue
            yield answers
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(
        self, question: str, talk: Talk, sampling: Sampling, answer: Answer, stirred: asyncio.Event
    ) -> None:
        started = time.monotonic()
        try:
            with self._reception.place() as deadline:
                async with deadline.watch():
                    file = talk.picture
                    pictures = [] if file is None else [await self._intake.picture(file, "the picture")]
                    asked = await self._intake.prepare(talk.messages(question), pictures, sampling)
                async with self._reception.answer(asked, deadline) as events:
                    await _listen(events, answer, stirred)
        except ApiError as error:
            answer.error = error.message
        except Exception:
            logger.exception("an answer on the page failed")
            answer.error = broken().message
        finally:
            stirred.set()
            outcome = answer.ending or ("failed" if answer.error else "left")
            logger.info("page %s, %.1f s", outcome, time.monotonic() - started)


async def _listen(events: Events, answer: Answer, stirred: asyncio.Event) -> None:
    while answer.ending is None:
        event = await events.get()
        if isinstance(event, ApiError):
            raise event
        if isinstance(event, Done):
            answer.ending = event.ending
        elif event is not None:
            answer.text += event.text
        stirred.set()
