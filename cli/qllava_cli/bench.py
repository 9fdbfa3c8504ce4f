"""`qllava bench`: training speed and memory on this machine, and against stock TRL."""

from __future__ import annotations

import json
import os
from typing import Annotated, Literal

import typer

from qllava_cli.console import note, result
from qllava_cli.options import RecipeOption, SetOption, VramOption, resolve_recipe


def bench(
    recipe: RecipeOption = None,
    stage: Annotated[int, typer.Option("--stage", min=1, max=2, help="Which stage's steps to measure.")] = 2,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Measured steps; one more warms up.")] = 4,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Samples of a step.", show_default="8; on a card 32")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Turns of each contender.")] = 1,
    against: Annotated[
        Literal["trl"] | None,
        typer.Option("--against", help="Also measure stock TRL, at its defaults and at its best."),
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Say what kinds of operation take the time.")] = False,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="The recipe's true dimensions without its weights: no download.")
    ] = False,
    vram: VramOption = None,
    no_pack: Annotated[bool, typer.Option("--no-pack", help="One conversation a sequence: the slow twin.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print every figure as JSON.")] = False,
    assignments: SetOption = None,
) -> None:
    """Measure real training steps: samples and tokens a second, peak memory, share of the device's matmul rate."""
    from qllava.bench.page import bench_page  # noqa: PLC0415
    from qllava.bench.run import BenchRequest, result_json, run_bench, with_room  # noqa: PLC0415
    from qllava.plan.cards import listed_device  # noqa: PLC0415
    from qllava.types import STAGE_NAMES  # noqa: PLC0415

    # Not `probe_devices`: its test on the card would leave this process holding memory that the measured ones need.
    probe = listed_device(dict(os.environ))
    resolved = resolve_recipe(recipe, assignments, probe=probe, vram_gib=vram)
    note(f"recipe {resolved.recipe.name} ({resolved.why})")
    request = BenchRequest(
        recipe=with_room(resolved.recipe),
        stage=STAGE_NAMES[stage],
        probe=probe,
        steps=steps,
        batch_size=batch_size or (32 if probe.kind == "cuda" else 8),
        rounds=rounds,
        vram_gib=vram,
        random_weights=random_weights,
        pack=not no_pack,
        against_trl=against is not None,
        profile=profile,
    )
    measured = run_bench(request, note)
    result(json.dumps(result_json(measured), indent=2) if as_json else bench_page(measured))
