"""`qllava gen-data`: a folder of annotated pictures becomes training data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qllava_cli.console import console, note, say

if TYPE_CHECKING:
    from qllava.datagen.card import Report


def gen_data(
    images: Annotated[Path, typer.Option("--images", help="Folder with the pictures, in it or in split folders.")],
    annotations: Annotated[
        Path | None,
        typer.Option("--annotations", help="COCO annotation folder or file.", show_default="in or beside --images"),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="Who writes the answers: template.", show_default="template")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("data"),
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="At most N pictures to train on.", show_default="all")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", help="Chooses wordings, and the pictures within --limit.", show_default="qllava.yaml's, else 42"
        ),
    ] = None,
    questions: Annotated[int, typer.Option("--questions", metavar="N", help="Short questions a picture, at most.")] = 6,
    kinds: Annotated[
        str, typer.Option("--kinds", help="Some of conversation,detail,reasoning.")
    ] = "conversation,detail",
) -> None:
    """Write training data for a folder of annotated pictures.

    qllava gen-data --images coco/
    """
    from qllava.datagen.pipeline import check_settings, generate  # noqa: PLC0415 - --help stays light

    name = teacher or "template"
    wanted = [kind.strip() for kind in kinds.split(",") if kind.strip()]
    check_settings(name, limit, questions, wanted)
    why = "needs no key and no model" if teacher is None else "as asked"
    say("teacher", name, f"{why}; every answer follows from the annotations", "--teacher")
    say("model", "none")
    with _progress() as progress:
        report = generate(
            images=images,
            annotations=annotations,
            out=out,
            teacher=name,
            limit=limit,
            seed=_project_seed() if seed is None else seed,
            questions=questions,
            kinds=wanted,
            progress=progress,
        )
    _summary(report)


def _project_seed() -> int:
    """The `seed` of qllava.yaml, which seeds every command alike, else 42."""
    from qllava.errors import RecipeError  # noqa: PLC0415
    from qllava.recipe import PROJECT_FILE, project_overrides  # noqa: PLC0415

    seed = project_overrides(Path()).get("seed", 42)
    if not isinstance(seed, int):
        raise RecipeError(f"{PROJECT_FILE}: seed={seed!r} is not a whole number")
    return seed


def _summary(report: Report) -> None:
    say("pictures", f"{report.pictures:,}", f"held out {report.held_out:,}: {report.held_out_rule}")
    say("captions", f"{report.captions:,}", "one a picture")
    say("instructions", f"{sum(report.by_kind.values()):,}", _counts(report.by_kind))
    say("types", _counts(report.by_type))
    say("held-out questions", f"{report.held_out_questions:,}")
    say("cost", "0 USD", "no request was made")
    rejected = sum(report.rejected.values())
    where = f"listed in {report.out / 'rejected.jsonl'}"
    say("rejected", f"{rejected:,}", "; ".join(filter(None, (_counts(report.rejected), where if rejected else ""))))
    say("missing pictures", f"{report.missing:,}", where if report.missing else "every listed one is on disk")
    for split, listed in report.absent_splits.items():
        say("split", split, f"not on disk: none of its {listed:,} pictures; {where}")
    say("written", f"{report.out}/", "align.json, instruct.json, heldout.jsonl, README.md, card.json")
    train = "qllava train --stage 1" + ("" if report.out == Path("data") else f" --data {report.out / 'align.json'}")
    note(f"next: {train}")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.items())


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr while pictures are worked on; gone when done, absent without a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(), transient=True, disable=not console().is_terminal) as bar:
        task = bar.add_task("reading annotations", total=None)

        def update(done: int, total: int) -> None:
            # A redraw per picture would cost more than the picture.
            if done % 64 == 0 or done in (1, total):
                bar.update(task, completed=done, total=total, description="writing questions")

        yield update
