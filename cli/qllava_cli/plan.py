"""`qllava plan`: what fits, how long it takes, and what to change; nothing is loaded or downloaded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qllava.errors import UsageError
from qllava_cli.console import note, result
from qllava_cli.options import RecipeOption, SetOption, resolve_recipe

if TYPE_CHECKING:
    from qllava.plan.work import Lengths
    from qllava.recipe import Recipe
    from qllava.types import Stage


def plan(
    recipe: RecipeOption = None,
    stage: Annotated[int | None, typer.Option("--stage", min=1, max=2, help="1 or 2.", show_default="both")] = None,
    vram: Annotated[
        float | None, typer.Option("--vram", metavar="GB", min=1.0, help="Plan for this much memory, card or no card.")
    ] = None,
    card: Annotated[str | None, typer.Option("--card", help="Plan for a card by name: 'RTX 3090'.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="Read samples and their lengths here: a data folder or file.", show_default="data/"
        ),
    ] = None,
    tflops: Annotated[
        float | None, typer.Option("--tflops", min=0.01, help="Rate to plan with, e.g. as `qllava bench` measures it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    assignments: SetOption = None,
) -> None:
    """Say what fits: memory by component, hours on this and other cards, and the cheapest changes that make it fit."""
    from qllava.plan.cards import listed_device, named_card, sized_card  # noqa: PLC0415
    from qllava.plan.page import plan_json, plan_page  # noqa: PLC0415
    from qllava.plan.plan import make_plan  # noqa: PLC0415
    from qllava.types import STAGE_NAMES  # noqa: PLC0415

    device = listed_device(dict(os.environ)) if card is None else named_card(card)
    chooses = sized_card(vram) if vram is not None and device.kind == "cpu" else device
    resolved = resolve_recipe(recipe, assignments, probe=chooses, vram_gib=vram)
    plans = []
    for name in STAGE_NAMES.values() if stage is None else (STAGE_NAMES[stage],):
        lengths, samples = _lengths(resolved.recipe, name, data)
        plans.append(make_plan(resolved.recipe, name, device, samples, vram, lengths=lengths, tflops=tflops))
    if as_json:
        result(json.dumps([plan_json(each) for each in plans], indent=2))
        return
    note(f"recipe {resolved.recipe.name} ({resolved.why})")
    result("\n\n".join(plan_page(each) for each in plans))


def _lengths(recipe: Recipe, stage: Stage, data: str | None) -> tuple[Lengths | None, int | None]:
    """Lengths and number of samples of a local data set; typical lengths where there is none yet."""
    from qllava.data.chat_template import stage_template  # noqa: PLC0415
    from qllava.data.formats import load_conversations  # noqa: PLC0415
    from qllava.data.lengths import measure_lengths  # noqa: PLC0415
    from qllava.model.tokenizer_file import find_tokenizer_file  # noqa: PLC0415
    from qllava.types import STAGE_FILES  # noqa: PLC0415

    path = Path(data) if data is not None else Path("data")
    if path.is_dir():
        path = path / STAGE_FILES[stage]
    if not path.is_file():
        if data is not None:
            raise UsageError(f"--data: {path} does not exist; name a data folder or file, or leave --data out")
        return None, None
    return measure_lengths(
        load_conversations(path),
        template=stage_template(recipe.template, recipe.align_template, stage),
        tokenizer_file=find_tokenizer_file(recipe.model.language_model),
        needs_image=stage == "align",
    )
