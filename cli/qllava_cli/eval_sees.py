"""`qllava eval sees`: whether the model looks at the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qllava.errors import DataError
from qllava_cli.answering_model import load_model
from qllava_cli.console import note, say
from qllava_cli.eval_options import (
    ImagesOption,
    JsonOption,
    ModelOption,
    Nf4Option,
    OutOption,
    RunOption,
    RunsOption,
    find_model,
    print_result,
)


def sees(
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Questions or conversations to score.", show_default="the run's held-out data"),
    ] = None,
    images: ImagesOption = None,
    run: RunOption = None,
    model: ModelOption = None,
    nf4: Nf4Option = False,
    limit: Annotated[int, typer.Option("--limit", min=2, help="Score this many, spread evenly.")] = 256,
    out: OutOption = None,
    runs: RunsOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Tell whether the model looks: loss and accuracy with the right picture, another one, and none.

    Without --run, the newest finished finetune run, or else align run. Nothing is generated, so this is quick.
    """
    target = find_model(runs, run, model, nf4=nf4, align_too=True)
    from qllava.evaluate.held_out import HELD_OUT, held_out_of, read_held_out  # noqa: PLC0415
    from qllava.evaluate.sees_run import sees_target  # noqa: PLC0415
    from qllava.files import write_json  # noqa: PLC0415
    from qllava_cli.eval_view import sees_table  # noqa: PLC0415

    if data is None and target.run is not None:
        held = held_out_of(target.run, limit=limit)
    else:
        held = read_held_out(data or Path("data") / HELD_OUT, images, limit=limit)
    say("data", held.what, f"{len(held.conversations):,} of them", "--data, --limit")
    sight = sees_target(target, load_model(target), held)
    if sight is None:
        raise DataError(f"{held.what} show fewer than two pictures; whether the model looks needs two or more")
    stage = None if target.run is None else target.run.manifest.stage
    sentence, advice = sight.sentence(stage), sight.advice(stage)
    folder = out or target.results / "sees"
    folder.mkdir(parents=True, exist_ok=True)
    values = {"benchmark": "sees", "model": target.name, "data": held.what, **sight.to_dict(), "sentence": sentence}
    write_json(folder / "result.json", values)
    print_result(values, sees_table(sight), as_json=as_json)
    if sight.left_out:
        note("left out: " + ", ".join(f"{count} {reason}" for reason, count in sight.left_out.items()))
    say("verdict", sentence)
    if advice is not None:
        note(f"warning: {advice}")
