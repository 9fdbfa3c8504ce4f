"""ScienceQA as LLaVA JSON to train on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qllava.errors import DataError, UsageError
from qllava.evaluate.science_qa.problems import Problem, ScienceQA
from qllava.evaluate.science_qa.prompts import Format, answer_text, question_text
from qllava.files import fsync_directory

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Converted:
    """How many samples were written, and how many of them have a picture."""

    samples: int
    with_picture: int


def samples_of(science: ScienceQA, style: Format) -> Iterator[dict[str, Any]]:
    """LLaVA rows in the split's order: the picture at the end of the question, no `image` where there is none."""
    for problem in science.problems:
        question = question_text(problem, style)
        asked = f"{question}\n<image>" if problem.image else question
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer_text(problem, style)}]
        picture = {"image": problem.image} if problem.image else {}
        yield {"id": problem.id, **picture, "kind": "scienceqa", "conversations": turns}


def convert(science: ScienceQA, style: Format, out: Path) -> Converted:
    """Write the split as one JSON list; image names are relative to `science.image_root`.

    Raises:
        DataError: pictures are missing; nothing is written.
        UsageError: the folder of `out` does not exist.
    """
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: the folder {out.parent} does not exist; make it first")
    require_pictures(science.problems, science.image_root)
    rows = list(samples_of(science, style))
    aside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    with aside.open("w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(out)
    fsync_directory(out.parent)
    return Converted(len(rows), sum("image" in row for row in rows))


def require_pictures(problems: tuple[Problem, ...], image_root: Path) -> None:
    """Check that every picture is on disk before anything is asked or written.

    Raises:
        DataError: some are not; says how many and names the first.
    """
    missing = [p.image for p in problems if p.image is not None and not (image_root / p.image).is_file()]
    if missing:
        first = ", ".join(missing[:_SHOWN])
        raise DataError(
            f"{len(missing):,} pictures are not in {image_root} (first: {first}); unpack ScienceQA's "
            "train.zip, val.zip and test.zip there"
        )
