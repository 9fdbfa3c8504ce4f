"""`qllava eval compare`: two models on the same questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qllava_cli.console import say
from qllava_cli.eval_options import JsonOption, print_result


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A folder or scores file that an eval command wrote.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one, of the same questions.")],
    seed: Annotated[int, typer.Option("--seed", help="Of the resampling.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Tell whether B is better than A: paired bootstrap over the questions, pictures resampled as wholes."""
    from qllava.evaluate.compare import compare as compare_sheets  # noqa: PLC0415 - numpy
    from qllava.evaluate.score_file import read_scores  # noqa: PLC0415
    from qllava_cli.eval_view import compare_table  # noqa: PLC0415

    sheets = read_scores(a), read_scores(b)
    comparison = compare_sheets(*sheets, seed=seed)
    for name, sheet in zip("AB", sheets, strict=True):
        settings = ", ".join(f"{key} {value}" for key, value in sheet.heading.settings.items())
        say(name, sheet.heading.model, settings)
    values = {
        "metric": sheets[0].metric,
        "models": {name: sheet.heading.model for name, sheet in zip("ab", sheets, strict=True)},
        **comparison.to_dict(),
        "sentence": comparison.sentence(),
    }
    print_result(values, compare_table(comparison), as_json=as_json)
    say("questions", f"B better in {comparison.better}, worse in {comparison.worse}, same in {comparison.same}")
    say("verdict", comparison.sentence())
