"""`qllava eval score-reviews`: relative scores of review files that are there already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from qllava_cli.console import note, result
from qllava_cli.eval_options import JsonOption


def score_reviews(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="JSONL reviews, LLaVA's or ours.")],
    as_json: JsonOption = False,
) -> None:
    """Score existing reviews: the two numbers on the first line of each, by category and overall.

    What cannot be read is in no score, and counted.
    """
    from qllava.evaluate.judge.reviews import score_reviews as score  # noqa: PLC0415 - --help stays light
    from qllava.evaluate.judge.table import reviews_table  # noqa: PLC0415

    reviewed = [score(path) for path in files]
    for one in reviewed:
        bad = {reason: count for reason, count in one.judged.failures.items() if count}
        if bad:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in bad.items())
            note(f"{one.path}: {sum(bad.values()):,} of {len(one.judged.judgements):,} reviews in no score: {reasons}")
        if one.differ:
            note(f"{one.path}: {one.differ:,} reviews record other numbers than their text, which counts")
    told = [{"file": str(one.path), "differ": one.differ, **one.judged.to_dict()} for one in reviewed]
    result(json.dumps(told, ensure_ascii=False) if as_json else reviews_table(reviewed))
