"""`qllava runs`: what was trained here."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qllava.errors import RunError
from qllava_cli.console import note, result

if TYPE_CHECKING:
    from qllava.checkpoint.manifest import Manifest

runs_app = typer.Typer(help="List and show training runs.")

RunsFolder = Annotated[Path, typer.Option("--runs", help="Folder of the runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the manifests as JSON.")]


@runs_app.command("list")
def list_all(runs: RunsFolder = Path("runs"), as_json: AsJson = False) -> None:
    """Print every run: its state, its steps, and its loss with the right picture and with another one."""
    from qllava.checkpoint.manifest import read_run, run_folders  # noqa: PLC0415 - --help stays light

    folders = [*run_folders(runs, "align"), *run_folders(runs, "finetune")]
    if not folders and not as_json:
        note(f"there is no run under {runs}; make one with `qllava train --stage 1`")
    told: dict[str, object] = {}
    for folder in folders:
        try:
            manifest = read_run(folder).manifest
        except RunError as error:
            note(str(error))
            continue
        told[folder.name] = asdict(manifest)
        if not as_json:
            result(f"{folder.name:<14}  {manifest.status:<11}  {_steps(manifest):>14}  {_picture(manifest)}".rstrip())
    if as_json:
        result(json.dumps(told, indent=2))


@runs_app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run's name or folder.")],
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Print one run: models, data, what came of it, and the command that continues it."""
    from qllava.checkpoint.manifest import read_run  # noqa: PLC0415

    folder = runs / run if (runs / run).is_dir() else Path(run)
    manifest = read_run(folder).manifest
    if as_json:
        result(json.dumps(asdict(manifest), indent=2))
        return
    lines = {
        "run": folder,
        "state": f"{manifest.status}, {_steps(manifest)} steps",
        **{f"model {name.replace('_', ' ')}": value for name, value in manifest.model.items()},
        **{f"data {name.replace('_', ' ')}": value for name, value in manifest.data.items()},
        **{f"from {name.replace('_', ' ')}": value for name, value in manifest.source.items()},
        **{f"loss, {name} picture".replace("none", "no"): f"{value:.3f}" for name, value in manifest.picture.items()},
        **{f"packing {name}": f"{value:.0%}" for name, value in manifest.packing.items()},
        **{f"file {name}": digest[:16] for name, digest in manifest.files.items()},
        "versions": ", ".join(f"{name} {number}" for name, number in manifest.versions.items()),
        "command": manifest.command,
    }
    width = max(map(len, lines))
    for name, value in lines.items():
        if value not in ("", None):
            result(f"{name:<{width}}  {value}")


def _steps(manifest: Manifest) -> str:
    return f"{manifest.steps:,} of {manifest.total_steps:,}"


def _picture(manifest: Manifest) -> str:
    """The end's loss with the right picture and with another; empty for a run that was not looked at."""
    right, shuffled = manifest.picture.get("right"), manifest.picture.get("shuffled")
    return "" if right is None or shuffled is None else f"loss {right:.2f}, with another picture {shuffled:.2f}"
