"""A desk at work in this process, and a dialogue before it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from qllava.infer.engine import Engine
from qllava.infer.pool import AnswerPool
from qllava.infer.sampling import Sampling
from qllava.serve.desk import Desk
from qllava.serve.dialogue import Answer, Dialogue, Talk
from qllava.serve.intake import Intake
from qllava.serve.reception import Reception

QUESTION = "What color is the circle?"


class Hall:
    """A desk at work, and a dialogue before it."""

    def __init__(self, engine: Engine, places: int = 4, seconds: float = 60.0) -> None:
        self.desk = Desk(AnswerPool(engine, max_rows=4))
        self.readers = ThreadPoolExecutor(1)
        intake = Intake(
            pool=AnswerPool(engine),
            processor=engine.image_processor,
            max_images=1,
            default=Sampling(),
            executor=self.readers,
        )
        self.reception = Reception(self.desk, places=places, seconds=seconds)
        self.dialogue = Dialogue(self.reception, intake)
        self.desk.start()

    def ask(self, talks: Sequence[Talk], tokens: int = 10) -> list[Answer]:
        """The last answers."""
        return asyncio.run(_last(self.dialogue.ask(QUESTION, talks, Sampling(max_new_tokens=tokens))))


async def _last(answers: AsyncIterator[tuple[Answer, ...]]) -> list[Answer]:
    return list([found async for found in answers][-1])
