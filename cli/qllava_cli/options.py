"""Options that several commands share, and how recipe, project file and flags become one recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from qllava.plan.device import DeviceProbe
    from qllava.recipe import Recipe

RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", help="A recipe's name or YAML file; see `qllava recipes list`.", show_default="auto"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any recipe setting: lora.rank=16; repeatable."),
]
VramOption = Annotated[
    float | None, typer.Option("--vram", metavar="GB", min=1.0, help="Plan for at most this much memory of the card.")
]
MaxBadOption = Annotated[
    float,
    typer.Option("--max-bad", min=0.0, max=1.0, help="Share of bad samples above which training does not start."),
]
# As `qllava.data.findings` has it, which imports more than `--help` should; a test compares them.
MOST_BAD = 0.001


@dataclass(frozen=True)
class Resolved:
    """A recipe after every layer, and why it is this one."""

    recipe: Recipe
    why: str


def resolve_recipe(
    recipe: str | None = None,
    assignments: Sequence[str] | None = (),
    flags: Mapping[str, Any] | None = None,
    *,
    probe: DeviceProbe | None = None,
    vram_gib: float | None = None,
    directory: Path | None = None,
) -> Resolved:
    """Lay the sources over each other: recipe < qllava.yaml < `--set` < flags.

    Args:
        recipe: name or YAML path of `--recipe`; else the `recipe:` key of qllava.yaml names it; else `auto`.
        assignments: the values of `--set`.
        flags: dotted recipe keys to values, e.g. `{"lora.rank": 64}`; a None was not given and is left out.
        probe: the device that `auto` looks at; probed when needed and not given.
        vram_gib: the cap of `--vram` for `auto`.
        directory: where qllava.yaml is looked for; the current directory unless given.

    Raises:
        RecipeError: unknown recipe or key, or a value out of range; names the layer it came from.
        DeviceError: `auto`, and the card is unusable or too small.
    """
    # Imported here: pydantic costs 0.1 s, and `--help` of every command that shares these options must not pay it.
    from qllava.recipe import (  # noqa: PLC0415
        AUTO,
        PROJECT_FILE,
        PROJECT_KEYS,
        merge,
        parse_assignments,
        parse_recipe,
        project_overrides,
        read_recipe,
    )

    project = project_overrides(directory or Path())
    named_by_project = project.get("recipe")
    settings = {key: value for key, value in project.items() if key not in PROJECT_KEYS}
    if recipe is not None:
        name, why = recipe, "as asked"
    elif named_by_project is not None:
        name, why = str(named_by_project), PROJECT_FILE
    else:
        name, why = AUTO, ""
    if name == AUTO:
        name, why = _automatic(probe, vram_gib)
    values = read_recipe(name)
    result = parse_recipe(values, origin=f"recipe {name}")
    # Checked layer by layer, so that a typo is reported where it was made.
    layers = (
        (PROJECT_FILE, settings),
        ("--set", parse_assignments(assignments or ())),
        ("flags", _nested(flags or {})),
    )
    for origin, layer in layers:
        if layer:
            values = merge(values, layer)
            result = parse_recipe(values, origin=origin)
    return Resolved(result, why)


def _automatic(probe: DeviceProbe | None, vram_gib: float | None) -> tuple[str, str]:
    from qllava.plan.auto import choose_recipe  # noqa: PLC0415
    from qllava.plan.device import probe_devices  # noqa: PLC0415

    choice = choose_recipe(probe or probe_devices(), vram_gib)
    return choice.name, choice.why


def _nested(flags: Mapping[str, Any]) -> dict[str, Any]:
    from qllava.recipe import merge  # noqa: PLC0415

    result: dict[str, Any] = {}
    for key, given in flags.items():
        if given is None:
            continue
        value: Any = given
        for part in reversed(key.split(".")):
            value = {part: value}
        result = merge(result, value)
    return result
