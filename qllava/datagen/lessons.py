"""What a teacher hands back for one picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["conversation", "detail", "reasoning"]
KINDS: tuple[Kind, ...] = ("conversation", "detail", "reasoning")


@dataclass(frozen=True, slots=True)
class Lesson:
    """One question and its answer.

    `type` is what is asked about (count, color, presence, ...); `accepted` are the answers that an exact match may
    take, the given one first.
    """

    kind: Kind
    type: str
    question: str
    answer: str
    accepted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer as a language model wrote them."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a turn was left out: `reason` is one of `checks.REASONS`, `detail` the words that show it."""

    reason: str
    detail: str
