"""Pictures and questions to start with: those of the data that a run was trained beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qllava.data.images import resolve_image
from qllava.errors import DataError
from qllava.evaluate.questions import read_questions

HELDOUT = "heldout.jsonl"
_COUNT = 6


@dataclass(frozen=True)
class Example:
    """A picture that the page offers, and what one might ask about it."""

    image: Path
    question: str


def find_examples(data: Mapping[str, Any], count: int = _COUNT) -> tuple[Example, ...]:
    """Examples of held-out pictures, different ones with different questions where there are some.

    Args:
        data: of a run's manifest: `path` of the training file, and `image_root`.
        count: at most.

    Returns: none if the data is no longer where it was; the page does without.
    """
    path, root = data.get("path"), data.get("image_root")
    if not isinstance(path, str) or not isinstance(root, str):
        return ()
    try:
        questions = read_questions(Path(path).parent / HELDOUT)
    except DataError:
        return ()
    examples: dict[Path, Example] = {}
    asked: set[str] = set()
    for question in questions:
        if len(examples) == count:
            break
        if question.image is None or question.question in asked:
            continue
        try:
            image = resolve_image(Path(root), question.image)
        except DataError:
            continue
        if image not in examples:
            examples[image] = Example(image, question.question)
            asked.add(question.question)
    return tuple(examples.values())
