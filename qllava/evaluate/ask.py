"""Asking a model a question set: with the right picture, with another one, or with none."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from qllava.data.images import open_image, resolve_image
from qllava.errors import DataError
from qllava.evaluate.questions import Question
from qllava.infer.engine import Engine, Prompt
from qllava.types import IMAGE, Part, text

Condition = Literal["right", "shuffled", "none"]
CONDITIONS: tuple[Condition, ...] = ("right", "shuffled", "none")
# Questions handed to the engine at a time, so that only their pictures are in memory.
_AT_ONCE = 256


def ask(
    engine: Engine,
    questions: Sequence[Question],
    image_root: Path,
    condition: Condition = "right",
    *,
    max_new_tokens: int = 32,
    among: Sequence[Question] | None = None,
) -> Iterator[tuple[Question, str]]:
    """Ask every question, greedily; yields (question, answer) as they come, in no order.

    Args:
        engine: the model.
        questions: their images are relative to ...
        image_root: ... this folder.
        condition: `right` picture; `shuffled`: that of another question; `none`: the question alone. Questions that
            have no picture are asked alone under each.
        max_new_tokens: answers are cut there.
        among: the whole question set where `questions` are a part of it: it decides which picture is another's.

    Raises:
        DataError: a picture is missing or unreadable, or `shuffled` with a single picture.
    """
    shown = pictures_shown(questions, condition, among)
    order = sorted(range(len(questions)), key=lambda i: (shown[i] or "", i))
    for start in range(0, len(order), _AT_ONCE):
        chunk = order[start : start + _AT_ONCE]
        names = {name for i in chunk if (name := shown[i]) is not None}
        opened = {name: open_image(resolve_image(image_root, name)) for name in sorted(names)}
        prompts: list[Prompt] = []
        for i in chunk:
            name = shown[i]
            parts: list[Part] = [text(questions[i].question)] if name is None else [IMAGE, text(questions[i].question)]
            prompts.append(([{"role": "user", "content": parts}], [] if name is None else [opened[name]]))
        for place, answer in engine.answer_each(prompts, max_new_tokens=max_new_tokens):
            yield questions[chunk[place]], answer


def pictures_shown(
    questions: Sequence[Question], condition: Condition, among: Sequence[Question] | None = None
) -> list[str | None]:
    """The picture each question is asked with; `shuffled` exchanges the pictures of `among`, by default of these.

    Raises:
        DataError: `shuffled`, and there is but one picture.
    """
    if condition == "none":
        return [None] * len(questions)
    if condition == "right":
        return [question.image for question in questions]
    whole = questions if among is None else among
    other = exchange({question.image for question in whole if question.image is not None})
    return [None if question.image is None else other[question.image] for question in questions]


def exchange(images: set[str]) -> dict[str, str]:
    """Give every picture another one, always the same: one cycle through all of them, so that none keeps its own.

    Raises:
        DataError: there is but one picture.
    """
    if len(images) == 1:
        raise DataError(f"all questions are about {next(iter(images))}; shuffling needs two pictures or more")
    cycle = sorted(images)
    random.Random(0).shuffle(cycle)  # noqa: S311 - no secret
    return dict(zip(cycle, [*cycle[1:], *cycle[:1]], strict=True))


def check_pictures(names: Iterable[str | None], image_root: Path) -> None:
    """See that every picture is there, before a model is loaded.

    Raises:
        DataError: how many are not, and the first.
    """
    wanted = sorted({name for name in names if name is not None})
    missing = []
    for name in wanted:
        try:
            resolve_image(image_root, name)
        except DataError as error:
            missing.append(error)
    if missing:
        raise DataError(f"{len(missing)} of {len(wanted)} pictures are missing; the first: {missing[0]}")
