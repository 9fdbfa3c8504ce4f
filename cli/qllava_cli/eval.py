"""`qllava eval`: what a trained run, or any published LLaVA, is worth."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import typer

# Command -> module and function. One whose module is absent is not listed.
_COMMANDS = {
    "vqa": ("eval_vqa", "vqa"),
    "sees": ("eval_sees", "sees"),
    "ask": ("eval_ask", "ask"),
    "scienceqa": ("eval_science_qa", "scienceqa"),
    "llava-bench": ("eval_llava_bench", "llava_bench"),
    "score-reviews": ("eval_score_reviews", "score_reviews"),
    "compare": ("eval_compare", "compare"),
}

eval_app = typer.Typer(
    help="Measure a run or any published LLaVA: benchmarks, and whether the picture matters.", no_args_is_help=True
)

for _name, (_module, _function) in _COMMANDS.items():
    if find_spec(f"qllava_cli.{_module}") is not None:
        eval_app.command(_name)(getattr(import_module(f"qllava_cli.{_module}"), _function))
