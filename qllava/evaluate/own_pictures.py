"""Our own pictures and prompts: every prompt about every picture, answers of several models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qllava.errors import DataError, UsageError
from qllava.evaluate.questions import Question
from qllava.report.answers import AnsweredQuestion, AnswersReport, write_answers

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; empty lines are skipped.

    Raises:
        DataError: no such file, no text, no prompt in it, or the same prompt twice.
    """
    if not path.is_file():
        raise DataError(f"prompt file {path} does not exist; write one prompt a line")
    try:
        prompts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"prompt file {path} is not UTF-8 text; write one prompt a line") from None
    if not prompts:
        raise DataError(f"prompt file {path} is empty; write one prompt a line")
    for number, prompt in enumerate(prompts):
        if prompt in prompts[:number]:
            raise DataError(f"{path} holds the prompt {prompt!r} twice; take one out")
    return prompts


def picture_questions(folder: Path, prompts: Sequence[str]) -> list[Question]:
    """Every prompt about every picture of a folder and those below it, sorted by name.

    Raises:
        UsageError: no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise UsageError(f"picture folder {folder} does not exist; give the folder of your pictures")
    pictures = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
    )
    if not pictures:
        raise UsageError(f"{folder} holds no picture ({', '.join(sorted(SUFFIXES))}); give the folder of your pictures")
    return [
        Question(id=f"{picture}: {prompt}", image=picture, question=prompt, answers=())
        for picture in pictures
        for prompt in prompts
    ]


def write_own_pictures(
    out: Path, questions: Sequence[Question], answers: Mapping[str, Mapping[str, str]], image_root: Path
) -> AnswersReport:
    """Write `answers.html`: one column of answers for each model of `answers` (model -> question id -> answer)."""
    models = list(answers)
    rows = [AnsweredQuestion(q.image, q.question, tuple(answers[model][q.id] for model in models)) for q in questions]
    return write_answers(out, rows, image_root=image_root, title=image_root.resolve().name, models=models)
