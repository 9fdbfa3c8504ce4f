"""A run answers a published benchmark: load it, answer what is missing, keep every answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qllava_cli.console import console, note, say

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qllava.checkpoint.manifest import Run
    from qllava.evaluate.questions import Question

RunOption = Annotated[
    Path | None, typer.Option("--run", help="A run's folder.", show_default="newest finished finetune run")
]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder of all runs.")]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for answers, replies and result.", show_default="RUN/eval/BENCHMARK"),
]
AnswersOption = Annotated[
    Path | None,
    typer.Option("--answers", help="Score these instead: JSONL with question_id and text; no model is loaded."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
LimitOption = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Only the first N questions.")]
_INTERRUPTED = 130


def answer_with_run(
    run: Run,
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
        run: the model.
        questions: to be answered, some or all of ...
        every: ... the whole set, which the file of answers names.
        image_root: folder of the pictures.
        out: `answers.jsonl` is kept there.
        settings: what else shapes an answer, e.g. the format of the question.
        max_new_tokens: answers are cut there.

    Raises:
        typer.Exit: 130 after Ctrl-C; what was answered is kept.
    """
    from qllava_cli.quiet import quiet_libraries  # noqa: PLC0415 - all below loads torch

    quiet_libraries()
    from qllava.evaluate.answering import answer_and_keep, questions_digest  # noqa: PLC0415
    from qllava.evaluate.kept_answers import read_kept  # noqa: PLC0415
    from qllava.infer.engine import Engine  # noqa: PLC0415
    from qllava_cli.chat import load_for_answers  # noqa: PLC0415

    path = out / "answers.jsonl"
    identity = {
        "questions": questions_digest(every),
        "run": run.folder.name,
        "weights": dict(sorted(run.manifest.files.items())),
        "max_new_tokens": max_new_tokens,
        **settings,
    }
    kept = read_kept(path, identity)
    say("run", run.folder, f"{run.manifest.steps:,} steps", "--run")
    found = sum(question.id in kept for question in questions)
    say("questions", f"{len(questions):,}", f"{found:,} are answered already" if found else "", "--limit")
    if found == len(questions):
        return {question.id: kept[question.id] for question in questions}
    engine = Engine(load_for_answers(run))
    answers: dict[str, str] = {}
    try:
        with counting(len(questions), "answering") as count:
            coming = answer_and_keep(engine, questions, image_root, path, identity, max_new_tokens=max_new_tokens)
            for question, answer in coming:
                answers[question] = answer
                count(len(answers))
    except KeyboardInterrupt:
        note(f"interrupted with {len(answers):,} answers kept in {path}; the same command continues")
        raise typer.Exit(_INTERRUPTED) from None
    return answers


@contextmanager
def counting(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A bar on stderr; gone when done, absent without a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(), transient=True, disable=not console().is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
