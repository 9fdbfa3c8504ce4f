"""`qllava recipes`: list, show and copy what ships."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qllava.errors import UsageError
from qllava_cli.console import note, result
from qllava_cli.options import SetOption

recipes_app = typer.Typer(help="List, show and copy the shipped recipes.")


@recipes_app.command("list")
def list_recipes() -> None:
    """Print every shipped recipe: name, models, what it is for."""
    from qllava.recipe import load_recipe, recipe_names  # noqa: PLC0415 - pydantic is not needed for --help

    recipes = [load_recipe(name) for name in recipe_names()]
    width = max(len(recipe.name) for recipe in recipes)
    for recipe in recipes:
        result(f"{recipe.name:<{width}}  {recipe.description}")


@recipes_app.command()
def show(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or YAML file.")],
    assignments: SetOption = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Every setting, defaults and parents included.")] = False,
) -> None:
    """Print a recipe: its file as written, or with --resolved (or --set) every setting."""
    from qllava.recipe import load_recipe, parse_assignments, recipe_path  # noqa: PLC0415

    overrides = parse_assignments(assignments or ())
    loaded = load_recipe(recipe, [overrides])
    if resolved or overrides:
        result(loaded.to_yaml())
    else:
        result(recipe_path(recipe).read_text(encoding="utf-8"))


@recipes_app.command()
def copy(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or YAML file.")],
    to: Annotated[Path | None, typer.Argument(help="The new file.", show_default="NAME.yaml here")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a recipe, resolved, to a file of your own to change."""
    from qllava.recipe import load_recipe  # noqa: PLC0415

    loaded = load_recipe(recipe)
    target = Path(f"{loaded.name}.yaml") if to is None else to
    if target.suffix not in {".yaml", ".yml"}:
        raise UsageError(f"{target} is not a YAML file name; write for example {target}.yaml")
    if target.exists() and not force:
        raise UsageError(f"{target} is there already; choose another name or add --force")
    if not target.parent.is_dir():
        raise UsageError(f"folder {target.parent} does not exist; make it first")
    values = loaded.model_copy(update={"name": target.stem})
    header = f"# A copy of the recipe {loaded.name}, to change.  qllava train --stage 1 --recipe {target}\n"
    target.write_text(header + values.to_yaml(), encoding="utf-8")
    note(f"wrote {target}; use it with --recipe {target} or `recipe: {target}` in qllava.yaml")
