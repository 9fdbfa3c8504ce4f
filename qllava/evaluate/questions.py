"""Question sets: one JSON object a line with `id`, `image`, `question`, `answers`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qllava.errors import DataError, UsageError


@dataclass(frozen=True, slots=True)
class Question:
    """One question about one picture.

    `image` is a path relative to the image root, or None for a question without a picture. `answers` are all accepted.
    `kind` sorts the score table (count, color, ...), empty if the file gives none.
    """

    id: str
    image: str | None
    question: str
    answers: tuple[str, ...]
    kind: str = ""


def read_questions(path: Path) -> list[Question]:
    """Read a JSONL question set in its order; empty lines are skipped.

    A line may name its kind as `type` (which wins) or `kind`, and hold one `answer` instead of a list of `answers`.

    Raises:
        DataError: no such file, no question in it, a line that is no question (says which), or an id used twice.
    """
    if not path.is_file():
        raise DataError(f"question file {path} does not exist; `qllava gen-data` writes data/heldout.jsonl")
    questions: list[Question] = []
    first_line: dict[str, int] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"question file {path} is not UTF-8 text; give JSON lines") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        question = _parse(line, f"{path} line {number}")
        if question.id in first_line:
            raise DataError(
                f"{path} line {number}: id {question.id!r} was used on line {first_line[question.id]}; ids must differ"
            )
        first_line[question.id] = number
        questions.append(question)
    if not questions:
        raise DataError(f"{path} holds no question; one JSON object a line with id, image, question, answers")
    return questions


def question_set_digest(questions: Sequence[Question]) -> str:
    """What tells one question set from another: a hash of every field of every question, in order."""
    lines = (json.dumps(asdict(question), sort_keys=True) for question in questions)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def spread(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """At most `limit` questions at even distances, so that every kind and many pictures are among them; all for None.

    Raises:
        UsageError: a limit below 1.
    """
    if limit is None or limit >= len(questions):
        return list(questions)
    if limit < 1:
        raise UsageError(f"--limit {limit} asks nothing; give 1 or more")
    return [questions[number * len(questions) // limit] for number in range(limit)]


def image_root(file: Path, images: Path | None = None) -> Path:
    """The folder of a question set's pictures: `images`, or what the `card.json` beside it names, or its own folder.

    Raises:
        UsageError: `images` is no folder.
        DataError: the card cannot be read, or its folder is gone.
    """
    if images is not None:
        if not images.is_dir():
            raise UsageError(f"--images {images} is not a folder; give the one that the question set's images lie in")
        return images
    card = file.parent / "card.json"
    if not card.is_file():
        return file.parent
    try:
        root = file.parent / str(json.loads(card.read_text(encoding="utf-8"))["image_root"])
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{card} names no image_root; give the folder of the pictures with --images") from None
    if not root.is_dir():
        raise DataError(f"the image folder {root} (named by {card}) does not exist; give it with --images")
    return root


def _parse(line: str, where: str) -> Question:
    try:
        row = json.loads(line)
    except ValueError:
        raise DataError(f"{where} is not JSON; write one object a line") from None
    if not isinstance(row, dict):
        raise DataError(f"{where} is {type(row).__name__}, not an object with id, image, question, answers")
    if "id" not in row:
        raise DataError(f"{where} lacks `id`; give each question one of its own")
    image = row.get("image")
    if image is not None and (not isinstance(image, str) or not image):
        raise DataError(f"{where}: image={image!r} is not a path; give one relative to the image root, or null")
    kind = row.get("type", row.get("kind")) or ""
    return Question(
        id=str(row["id"]),
        image=image,
        question=_text(row.get("question"), f"{where}: question"),
        answers=_answers(row, where),
        kind=_text(kind, f"{where}: kind") if kind else "",
    )


def _answers(row: dict[str, Any], where: str) -> tuple[str, ...]:
    given = row.get("answers", row.get("answer"))
    listed = given if isinstance(given, list) else [given]
    if not listed:
        raise DataError(f"{where}: answers is empty; list at least one that is accepted")
    return tuple(_text(answer, f"{where}: answers") for answer in listed)


def _text(value: object, what: str) -> str:
    # Numbers are answers too ("2"); JSON writers often leave the quotes off.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{what} is {value!r}; give a text")
    return value
