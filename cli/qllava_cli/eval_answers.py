"""A model answers a published benchmark: what is missing is asked, every answer is kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qllava_cli.eval_options import answering, lazy_engine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qllava.evaluate.questions import Question
    from qllava.evaluate.target import Target

AnswersOption = Annotated[
    Path | None,
    typer.Option("--answers", help="Score these instead: JSONL with question_id and text; no model is loaded."),
]
FirstOption = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Only the first N questions.")]
ResultsOption = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for answers, replies and result.", show_default="RUN/eval/BENCHMARK"),
]


def answer_benchmark(
    target: Target,
    benchmark: str,
    questions: Sequence[Question],
    every: Sequence[Question],
    image_root: Path,
    out: Path,
    settings: Mapping[str, Any],
    *,
    max_new_tokens: int,
) -> dict[str, str]:
    """Answers by question id; those on the disk are not asked again.

    Args:
        target: the model.
        benchmark: its name, for the file of answers.
        questions: to be answered, some or all of ...
        every: ... the whole set, which the file of answers names.
        image_root: folder of the pictures.
        out: `answers.jsonl` is kept there.
        settings: what else shapes an answer, e.g. the format of the question.
        max_new_tokens: answers are cut there.

    Raises:
        KeyboardInterrupt: what was answered is kept, and said.
        DataError: the file holds answers of something else, or a picture is unreadable.
    """
    from qllava.evaluate.answer_file import AnswerFile  # noqa: PLC0415 - all below loads torch
    from qllava.evaluate.answering import QuestionSet, ask_missing  # noqa: PLC0415

    asked = QuestionSet(tuple(every), tuple(questions), image_root)
    path = out / "answers.jsonl"
    shaped = {"max_new_tokens": max_new_tokens, "sampling": "greedy", **settings}
    heading = target.heading(benchmark, asked.digest, shaped)
    with AnswerFile(path, heading) as file, answering(benchmark, path) as progress:
        return ask_missing(lazy_engine(target), asked, file, max_new_tokens=max_new_tokens, progress=progress)
