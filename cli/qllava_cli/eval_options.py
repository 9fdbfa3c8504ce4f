"""What the eval commands share: which model, where to, and how answering is shown."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qllava_cli.answering_model import load_model
from qllava_cli.console import console, note, result, say

if TYPE_CHECKING:
    from qllava.evaluate.target import Target
    from qllava.infer.engine import Engine
    from qllava.report.answers import AnswersReport

RunOption = Annotated[
    Path | None, typer.Option("--run", help="A run's folder.", show_default="newest finished finetune run")
]
ModelOption = Annotated[
    str | None, typer.Option("--model", metavar="HUB_ID|DIR", help="Any LLaVA in transformers format instead.")
]
Nf4Option = Annotated[bool, typer.Option("--nf4", help="Load --model in 4 bits.")]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder of all runs.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder for answers and report.", show_default="under the run")
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, help="Ask this many, spread evenly.", show_default="all")
]
TokensOption = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")]
ImagesOption = Annotated[
    Path | None,
    typer.Option("--images", help="Folder the image names are relative to.", show_default="the file's card.json"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def find_model(
    runs: Path, run: Path | None, model: str | None, *, nf4: bool = False, align_too: bool = False
) -> Target:
    """The model the options name, and a line about it.

    Raises:
        QllavaError: as `find_target`.
    """
    from qllava_cli.quiet import quiet_libraries  # noqa: PLC0415 - all below loads torch

    quiet_libraries()
    from qllava.evaluate.target import find_target  # noqa: PLC0415

    target = find_target(runs, run, model, quantization="nf4" if nf4 else "none", align_too=align_too)
    show_target(target)
    return target


def show_target(target: Target) -> None:
    """One line about what is measured."""
    if target.run is None:
        say("model", target.name, "in 4 bits" if target.quantization == "nf4" else "as published", "--model")
    else:
        say("run", target.name, f"{target.run.manifest.steps:,} steps", "--run")


def lazy_engine(target: Target) -> Callable[[], Engine]:
    """An engine that is loaded when it is first asked for, and once."""
    from functools import cache  # noqa: PLC0415

    from qllava.infer.engine import Engine  # noqa: PLC0415

    @cache
    def engine() -> Engine:
        return Engine(load_model(target))

    return engine


@contextmanager
def answering(name: str, path: Path) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr; Ctrl-C says what is kept and how to go on. Yields (done, of) -> None."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    last = (0, 0)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console(), transient=True, disable=not console().is_terminal) as bar:
            task = bar.add_task(name, total=None)

            def progress(done: int, of: int) -> None:
                nonlocal last
                if last == (0, 0) and done:
                    note(f"{done} of {of} answers are in {path} already")
                last = (done, of)
                bar.update(task, completed=done, total=of)

            yield progress
    except KeyboardInterrupt:
        done, of = last
        note(f"stopped; {done} of {of} answers are kept in {path}; `{this_command()}` asks the rest")
        raise


def show_report(report: AnswersReport) -> None:
    """Where the page is, and what is not on it."""
    some = "" if report.pictures == report.of_pictures else f"{report.pictures:,} of {report.of_pictures:,} pictures"
    lost = "" if not report.unreadable else f"{report.unreadable} pictures could not be read"
    say("report", report.out, "; ".join(part for part in (some, lost) if part))


def print_result(values: dict[str, Any], table: Any, *, as_json: bool) -> None:
    """The result on stdout: JSON, or a table that a narrow terminal still shows whole."""
    if as_json:
        result(json.dumps(values, indent=2, ensure_ascii=False))
        return
    from rich.console import Console  # noqa: PLC0415

    Console(highlight=False).print(table)


def this_command() -> str:
    """The command line as it was typed."""
    return shlex.join(["qllava", *sys.argv[1:]])
