"""A miniature ScienceQA folder in the published schema."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.infer.tiny_run import picture

SUBJECTS = ("natural science", "social science", "language science")


def problem(**changes: Any) -> dict[str, Any]:
    """One entry of problems.json with all published keys."""
    entry = {
        "question": "Which of these states is farthest north?",
        "choices": ["West Virginia", "Louisiana", "Arizona", "Oklahoma"],
        "answer": 0,
        "hint": "",
        "image": None,
        "task": "closed choice",
        "grade": "grade2",
        "subject": "social science",
        "topic": "geography",
        "category": "Geography",
        "skill": "Read a map",
        "lecture": "Maps have four cardinal directions.",
        "solution": "West Virginia is farthest north.",
        "split": "test",
    }
    return entry | changes


# id -> entry; answers of a model below are scored by hand in the tests.
PROBLEMS = {
    "1": problem(image="image.png", hint="Look at the map."),
    "2": problem(
        question="Is it a mammal?",
        choices=["yes", "no"],
        answer=1,
        subject="natural science",
        grade="grade6",
        hint="It lays eggs.",
    ),
    "3": problem(choices=["a", "b", "c"], answer=2, subject="natural science", grade="grade7", image="image.png"),
    "4": problem(choices=["a", "b"], answer=0, subject="language science", grade="grade12"),
    "5": problem(choices=["a", "b", "c", "d", "e"], answer=4, subject="language science", grade="grade1"),
}


def write_science_qa(folder: Path, problems: dict[str, Any] | None = None, *, pictures: bool = True) -> Path:
    """problems.json, pid_splits.json and images/SPLIT/ID/image.png."""
    entries = PROBLEMS if problems is None else problems
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "problems.json").write_text(json.dumps(entries))
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number, (identity, entry) in enumerate(entries.items()):
        splits[entry["split"]].append(identity)
        if entry["image"] and pictures:
            where = folder / "images" / entry["split"] / identity
            where.mkdir(parents=True, exist_ok=True)
            picture(40 * number).save(where / entry["image"])
    (folder / "pid_splits.json").write_text(json.dumps(splits))
    return folder


def many_problems(number: int, seed: int = 0) -> dict[str, Any]:
    """Problems with all kinds of subject, context, grade and number of choices."""
    draw = random.Random(seed)
    made: dict[str, Any] = {}
    for identity in range(number):
        choices = [f"choice {n}" for n in range(draw.choice((2, 2, 3, 4, 5)))]
        made[str(identity)] = problem(
            choices=choices,
            answer=draw.randrange(len(choices)),
            subject=draw.choice(SUBJECTS),
            grade=f"grade{draw.randint(1, 12)}",
            hint=draw.choice(("", "a hint")),
            image=draw.choice((None, "image.png")),
        )
    return made
