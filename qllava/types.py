"""The nouns every floor shares: messages, conversations, boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

Role = Literal["system", "user", "assistant"]
Stage = Literal["align", "finetune"]

STAGE_NAMES: dict[int, Stage] = {1: "align", 2: "finetune"}
# What a data folder calls the samples of a stage.
STAGE_FILES: dict[Stage, str] = {"align": "align.json", "finetune": "instruct.json"}


class Part(TypedDict):
    """One piece of a message, as Hugging Face chat templates expect it: `{"type": "image"}` or a text."""

    type: Literal["text", "image"]
    text: NotRequired[str]


class Message(TypedDict):
    """One turn. Where a picture stands is structure (`{"type": "image"}`), never text."""

    role: Role
    content: list[Part]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A training sample or a chat so far.

    `images` are paths relative to the image root (or absolute), in the order of the image parts; empty for
    text-only samples. `kind` is the generator's label (conversation, detail, reasoning, caption, ...), if any.
    """

    id: str
    images: tuple[str, ...]
    messages: tuple[Message, ...]
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned box, normalised per axis to 0-1: top-left (x1, y1), bottom-right (x2, y2)."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def area(self) -> float:
        """Share of the picture, 0-1."""
        return max(0.0, self.x2 - self.x1) * max(0.0, self.y2 - self.y1)

    @property
    def center(self) -> tuple[float, float]:
        """(x, y) of the middle."""
        return (self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2


def text(value: str) -> Part:
    """A text part."""
    return {"type": "text", "text": value}


IMAGE: Part = {"type": "image"}
