"""`qllava demo`: the four commands on rendered scenes, then what the result is worth."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qllava.errors import QllavaError
from qllava_cli.console import console, fail, note, result, say

if TYPE_CHECKING:
    from qllava.checkpoint.manifest import Run
    from qllava.demo.steps import Step

_INTERRUPTED = 130


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to work in.")] = Path("demo"),
    seed: Annotated[int, typer.Option("--seed", help="Of the scenes, the data and the training.")] = 42,
    new: Annotated[bool, typer.Option("--new", help="Do finished steps again.")] = False,
) -> int:
    """Run the four commands on rendered scenes and measure the result.

    Needs no GPU and no download; about a quarter of an hour on two cores. Interrupted, the same command continues.
    """
    from qllava.demo.workspace import write_workspace  # noqa: PLC0415 - pydantic and PIL

    start = time.monotonic()
    rendered = write_workspace(out, seed)
    say("folder", f"{out}/", "scenes rendered" if rendered else "scenes are there already", "--out")
    say("seed", seed, "", "--seed")
    from qllava.demo.steps import demo_steps  # noqa: PLC0415

    for step in demo_steps():
        if not new and step.done(out):
            note(f"$ {step.line} (skipped: {out} holds {step.result}; --new does it again)")
            continue
        code = run_step(step, out)
        if code == _INTERRUPTED:
            note(f"stopped in `{step.line}`; `{_own_command()}` continues")
            return code
        if code:
            raise QllavaError(f"`{step.line}` ended with exit code {code} in {out}; correct what it says and repeat")
    failures = _measure(out)
    for line in _where(out):
        say(*line)
    say("time", _minutes(time.monotonic() - start), "set-up aside")
    for failure in failures:
        fail(failure)
    result(paste_line(out))
    return 1 if failures else 0


def run_step(step: Step, folder: Path) -> int:
    """Run one command in the workspace, shown as it is typed; its exit code, 130 for Ctrl-C."""
    piped = "" if step.stdin is None else f" (asked: {' / '.join(step.stdin.splitlines())})"
    console().print()
    note(f"$ {step.line}{piped}")
    # The same interpreter and package as this one, wherever `qllava` on the PATH may lead; -P keeps the workspace's own
    # folders out of the import path.
    command = [sys.executable, "-P", "-m", "qllava_cli.main", *step.arguments]
    process = subprocess.Popen(command, cwd=folder, text=True, stdin=None if step.stdin is None else subprocess.PIPE)
    try:
        process.communicate(step.stdin)
    except KeyboardInterrupt:
        # The terminal sent Ctrl-C to the child as well: it is saving now, and is left the time for it.
        _wait(process)
        return _INTERRUPTED
    return _INTERRUPTED if process.returncode == -signal.SIGINT else process.returncode


def paste_line(folder: Path) -> str:
    """The chat command to paste into a shell, with a path to `qllava` that works from the workspace."""
    from shutil import which  # noqa: PLC0415

    from qllava.demo.workspace import IMAGE  # noqa: PLC0415

    beside = Path(sys.executable).with_name("qllava")
    program = "qllava"
    if which("qllava") is None and beside.is_file():
        # Unresolved: a virtual environment is recognised by the path of its links.
        program = os.path.relpath(beside, folder)
    return f"cd {shlex.quote(str(folder))} && {shlex.quote(program)} chat {IMAGE}"


def _measure(folder: Path) -> list[str]:
    """Ask the newest run, print the tables on stdout, return what is below the bar."""
    from qllava_cli.quiet import quiet_libraries  # noqa: PLC0415

    quiet_libraries()
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

    from qllava.checkpoint.load import find_run, load_run  # noqa: PLC0415
    from qllava.demo.measure import gate, measure  # noqa: PLC0415
    from qllava.demo.steps import RUNS  # noqa: PLC0415
    from qllava_cli.answering_model import usable_device  # noqa: PLC0415
    from qllava_cli.eval_view import sees_table, vqa_table  # noqa: PLC0415

    console().print()
    loaded = load_run(find_run(folder / RUNS), device=usable_device())
    note(f"measuring {loaded.run.folder} on held-out questions")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console(), transient=True, disable=not console().is_terminal) as bar:
        names = ("right", "shuffled", "none")
        asked, scored = (
            {n: bar.add_task(f"{what} {n:>8} picture", total=None) for n in names} for what in ("answers,", "losses, ")
        )
        measured = measure(
            folder,
            loaded,
            progress=lambda name, done, total: bar.update(asked[name], completed=done, total=total),
            looking=lambda name, done, total: bar.update(scored[name], completed=done, total=total),
        )
    tables = Console(highlight=False)
    if measured.sight is not None:
        tables.print(sees_table(measured.sight))
        say("verdict", measured.sight.sentence("finetune"))
    tables.print(vqa_table(measured.scores))
    return gate(measured.scores)


def _where(folder: Path) -> list[tuple[str, Path, str]]:
    from qllava.checkpoint.manifest import newest_finished  # noqa: PLC0415
    from qllava.demo.measure import CONTACT_SHEET, SCORES  # noqa: PLC0415
    from qllava.demo.steps import RUNS  # noqa: PLC0415

    found: list[Run | None] = [
        newest_finished(folder / RUNS, "align"),
        newest_finished(folder / RUNS, "finetune"),
    ]
    curves = [("loss curve", run.folder / "loss.png", "") for run in found if run is not None]
    return [
        ("contact sheet", folder / CONTACT_SHEET, "pictures, questions, truths, answers"),
        *(line for line in curves if line[1].is_file()),
        ("scores", folder / SCORES, ""),
    ]


def _wait(process: subprocess.Popen[str]) -> None:
    """Wait for the child to save; another Ctrl-C goes to it as well, and only it decides what that means."""
    while True:
        try:
            process.wait()
            return
        except KeyboardInterrupt:
            continue


def _own_command() -> str:
    return shlex.join(["qllava", *(argument for argument in sys.argv[1:] if argument != "--new")])


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
