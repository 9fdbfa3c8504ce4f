"""A conversation about a picture: what was said so far, and the commands that steer it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

from PIL import Image

from qllava.errors import UsageError
from qllava.infer.engine import Engine
from qllava.infer.sampling import Sampling
from qllava.types import IMAGE, Message, Part, text

CommandName = Literal["image", "reset", "exit", "help"]
COMMANDS = "/image PATH, /reset, /exit, /help"


class Command(NamedTuple):
    """A line that steers the chat; `argument` is the path of `/image`, else empty."""

    name: CommandName
    argument: str = ""


def parse_command(line: str) -> Command | None:
    """The command a line gives, or None for a question.

    Raises:
        UsageError: it starts like a command and is none, or lacks its path.
    """
    word, _, argument = line.strip().partition(" ")
    if not word.startswith("/"):
        return None
    for name in get_args(CommandName):
        if word == f"/{name}":
            if (name == "image") != bool(argument.strip()):
                raise UsageError(f"{line.strip()!r} is no command; there are {COMMANDS}")
            return Command(name, argument.strip())
    raise UsageError(f"unknown command {word}; there are {COMMANDS}")


class ChatSession:
    """What was said so far. The picture, if there is one, stands in the first question."""

    def __init__(self, engine: Engine, sampling: Sampling, image: Image.Image | None = None) -> None:
        self._engine = engine
        self._sampling = sampling
        self._image = image
        self._messages: list[Message] = []

    @property
    def messages(self) -> tuple[Message, ...]:
        """The turns so far."""
        return tuple(self._messages)

    def show(self, image: Image.Image) -> None:
        """Start anew with another picture."""
        self._image = image
        self.reset()

    def reset(self) -> None:
        """Forget what was said; the picture stays."""
        self._messages.clear()

    def ask(self, question: str) -> Iterator[str]:
        """Pieces of the answer as they come.

        An answer that is stopped half way (the generator is closed, or Ctrl-C) is kept as far as it was said; one
        without a word leaves the conversation as it was.

        Raises:
            DataError: the conversation has outgrown the model's context.
        """
        first: list[Part] = [IMAGE] if self._image is not None and not self._messages else []
        turn: Message = {"role": "user", "content": [*first, text(question)]}
        images = [] if self._image is None else [self._image]
        said = ""
        try:
            for piece in self._engine.stream([*self._messages, turn], images, self._sampling):
                said += piece
                yield piece
        finally:
            if said:
                self._messages += [turn, {"role": "assistant", "content": [text(said)]}]
