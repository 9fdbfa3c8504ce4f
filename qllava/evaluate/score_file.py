"""One score a question on disk, `scores.jsonl`: what `qllava eval compare` sets side by side."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from qllava.errors import DataError
from qllava.evaluate.answer_file import Heading

SCORES = "scores.jsonl"
FORMAT = 1
_MARK = "qllava_scores"


@dataclass(frozen=True, slots=True)
class QuestionScore:
    """The score of one question; `group` is what is resampled together (its picture), `kind` a row of the table."""

    id: str
    score: float
    group: str = ""
    kind: str = ""


@dataclass(frozen=True)
class ScoreSheet:
    """All scores of one model on one question set, by one metric."""

    heading: Heading
    metric: str
    rows: tuple[QuestionScore, ...]


def write_scores(path: Path, sheet: ScoreSheet) -> None:
    """Write a score file, whole or not at all."""
    lines = [{_MARK: FORMAT, "metric": sheet.metric, **asdict(sheet.heading)}, *map(asdict, sheet.rows)]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def read_scores(path: Path) -> ScoreSheet:
    """Read a score file; a folder means the `scores.jsonl` in it, an answer file the scores beside it.

    Raises:
        DataError: no such file, an empty one, a line that is no score, or an id used twice.
    """
    if path.is_dir():
        path = path / SCORES
    elif path.name.startswith("answers") and path.suffix == ".jsonl":
        path = path.with_name(path.name.replace("answers", "scores", 1))
    if not path.is_file():
        raise DataError(f"score file {path} does not exist; an eval command writes it when all questions are answered")
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines:
        raise DataError(f"score file {path} is empty; run the eval command again to write it")
    try:
        values = json.loads(lines[0])
        if values.pop(_MARK) != FORMAT:
            raise DataError(f"{path} has another score format than this qllava reads ({FORMAT}); update qllava")
        metric = str(values.pop("metric"))
        heading = Heading(**values)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{path} is no score file of qllava; name the folder or file that an eval command wrote"
        ) from None
    rows: dict[str, QuestionScore] = {}
    for number, line in enumerate(lines[1:], start=2):
        try:
            row = QuestionScore(**json.loads(line))
        except (ValueError, TypeError):
            raise DataError(f"{path} line {number} is no score; run the eval command again to write it") from None
        if row.id in rows:
            raise DataError(f"{path} line {number}: id {row.id!r} is scored twice; run the eval command again")
        rows[row.id] = row
    if not rows:
        raise DataError(f"score file {path} holds no score; run the eval command again to write it")
    return ScoreSheet(heading, metric, tuple(rows.values()))
