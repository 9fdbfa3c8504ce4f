"""ScienceQA as lupantech/ScienceQA publishes it: `problems.json`, `pid_splits.json`, `images/SPLIT/ID/image.png`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qllava.errors import DataError, UsageError

PROBLEMS = "problems.json"
SPLITS = "pid_splits.json"
IMAGES = "images"
LETTERS = "ABCDEFGH"
"""How choices are called; a published problem has five at the most."""
SUBJECTS = ("natural science", "social science", "language science")


@dataclass(frozen=True, slots=True)
class Problem:
    """One multiple-choice question.

    `answer` is the index of the right choice; `grade` 1-12; `image` the picture relative to `ScienceQA.image_root`, or
    None; `hint`, `lecture` and `solution` may be empty.
    """

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    hint: str
    image: str | None
    subject: str
    grade: int
    lecture: str
    solution: str

    @property
    def letters(self) -> str:
        """The letters of its choices, `AB` for two."""
        return LETTERS[: len(self.choices)]


@dataclass(frozen=True)
class ScienceQA:
    """The problems of one split in the order of `pid_splits.json`."""

    problems: tuple[Problem, ...]
    split: str
    image_root: Path


def read_science_qa(folder: Path, split: str) -> ScienceQA:
    """Read one split of a folder as published; the two files may also lie in `data/scienceqa/` below it.

    Raises:
        UsageError: the split is not one of `pid_splits.json`.
        DataError: a file is missing or unreadable, a problem does not fit the schema, an id is listed twice or unknown.
    """
    home = folder / "data" / "scienceqa"
    if not (folder / PROBLEMS).is_file() and (home / PROBLEMS).is_file():
        folder = home
    problems, splits = _read_object(folder / PROBLEMS), _read_object(folder / SPLITS)
    if split not in splits:
        raise UsageError(f"--split {split} is not in {folder / SPLITS}; it holds {', '.join(map(str, splits))}")
    listed = splits[split]
    if not isinstance(listed, list) or not listed:
        raise DataError(f"{folder / SPLITS}: {split} lists no problem; get the file anew from lupantech/ScienceQA")
    identities = [str(identity) for identity in listed]
    _refuse_repeated(identities, f"{folder / SPLITS}: {split}")
    unknown = [identity for identity in identities if identity not in problems]
    if unknown:
        raise DataError(
            f"{len(unknown)} problems of {split} are not in {folder / PROBLEMS} (first: {unknown[0]}); "
            "get both files from the same release"
        )
    read = tuple(_problem(i, problems[i], f"{folder / PROBLEMS}, problem {i}") for i in identities)
    return ScienceQA(read, split, folder / IMAGES)


def _refuse_repeated(identities: list[str], where: str) -> None:
    seen: set[str] = set()
    for identity in identities:
        if identity in seen:
            raise DataError(f"{where} lists problem {identity} twice; ids must differ")
        seen.add(identity)


def _problem(identity: str, row: object, where: str) -> Problem:
    if not isinstance(row, Mapping):
        raise DataError(f"{where} is {type(row).__name__}, not an object with question, choices, answer")
    choices = row.get("choices")
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
        raise DataError(f"{where}: choices={choices!r}; give a list of 2 to {len(LETTERS)} texts")
    answer = row.get("answer")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise DataError(f"{where}: answer={answer!r} is no index of its {len(choices)} choices")
    subject = row.get("subject")
    if subject not in SUBJECTS:
        raise DataError(f"{where}: subject={subject!r}; known are {', '.join(SUBJECTS)}")
    grade = re.fullmatch(r"grade(\d{1,2})", str(row.get("grade")))
    if grade is None or not 1 <= int(grade[1]) <= 12:
        raise DataError(f"{where}: grade={row.get('grade')!r}; write grade1 to grade12")
    image = row.get("image")
    if image and not isinstance(image, str):
        raise DataError(f"{where}: image={image!r} is no file name; give one, or null")
    return Problem(
        id=identity,
        question=_text(row, "question", where, required=True),
        choices=tuple(str(choice) for choice in choices),
        answer=answer,
        hint=_text(row, "hint", where),
        image=f"{_text(row, 'split', where, required=True)}/{identity}/{image}" if image else None,
        subject=subject,
        grade=int(grade[1]),
        lecture=_text(row, "lecture", where),
        solution=_text(row, "solution", where),
    )


def _text(row: Mapping[str, Any], key: str, where: str, *, required: bool = False) -> str:
    value = row.get(key) or ""
    if not isinstance(value, str) or (required and not value.strip()):
        raise DataError(f"{where}: {key}={row.get(key)!r}; give a text")
    return value


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path} does not exist; get it from lupantech/ScienceQA (data/scienceqa)")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not readable JSON ({error}); was it cut short? get it anew") from None
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path} holds no object with entries; get it anew from lupantech/ScienceQA")
    return content
