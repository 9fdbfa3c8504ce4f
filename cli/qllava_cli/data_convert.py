"""`qllava data convert`: published data sets as LLaVA JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qllava_cli.console import note, say

convert_app = typer.Typer(help="Convert published data sets to LLaVA JSON.", no_args_is_help=True)


@convert_app.callback()
def _convert() -> None:
    """Convert published data sets to LLaVA JSON."""


@convert_app.command()
def scienceqa(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="problems.json, pid_splits.json and images/.")],
    out: Annotated[Path, typer.Option("--out", help="The JSON file to write.")],
    style: Annotated[
        str, typer.Option("--format", help="qcm-lea, qcm-lepa (reasoning first) or cqm-a (the letter alone).")
    ] = "qcm-lepa",
    split: Annotated[str, typer.Option("--split", help="Of pid_splits.json.")] = "train",
) -> None:
    """Write a split of ScienceQA; problems without a picture become text-only samples.

    qllava data convert scienceqa DIR --split train --out scienceqa.json
    """
    from qllava.evaluate.science_qa.convert import convert  # noqa: PLC0415 - --help stays light
    from qllava.evaluate.science_qa.problems import read_science_qa  # noqa: PLC0415
    from qllava.evaluate.science_qa.prompts import parse_format  # noqa: PLC0415

    science = read_science_qa(folder, split)
    form = parse_format(style)
    done = convert(science, form, out)
    say("format", form, flag="--format")
    say("samples", f"{done.samples:,}", f"{done.with_picture:,} with a picture")
    say("written", out)
    note(
        f"next: qllava train --stage 2 --recipe llava-v1-7b-scienceqa --data {out} --images {science.image_root} "
        "(after stage 1 of the same recipe)"
    )
