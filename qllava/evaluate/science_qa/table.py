"""The score table as text, the published rows beside ours; 80 columns wide."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from qllava.evaluate.exact_match import Score
from qllava.evaluate.science_qa.score import COLUMNS, ScienceScores

_NAME = 25
_CELL = 6


def published() -> tuple[int, dict[str, tuple[float, ...]]]:
    """(problems of the test split, rows of percentages in the order of `COLUMNS`), from published.yaml."""
    import yaml  # noqa: PLC0415 - 30 ms that `--help` does not need

    text = files("qllava.evaluate.science_qa").joinpath("published.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return int(content["problems"]), {name: tuple(row) for name, row in content["rows"].items()}


def table(ours: Mapping[str, ScienceScores]) -> str:
    """Our rows under the published ones; a column without problems shows a dash."""
    asked, rows = published()
    lines = ["".ljust(_NAME) + "".join(name.rjust(_CELL) for name in COLUMNS)]
    lines += [_line(name, [f"{value:.2f}" for value in row]) for name, row in rows.items()]
    lines.append("-" * (_NAME + _CELL * len(COLUMNS)))
    for name, scores in ours.items():
        lines.append(_line(name, [_percent(score) for score in scores.columns.values()]))
        halves = [_half_width(score) for score in scores.columns.values()]
        lines.append(_line("  95 % interval, +-", halves))
    first = next(iter(ours.values()))
    count = first.columns["Avg"].asked
    lines.append(_line("  problems", [str(score.asked) for score in first.columns.values()]))
    if count != asked:
        lines.append(f"published: the {asked:,} problems of the test split; ours: {count:,}, not comparable")
    return "\n".join(lines)


def _line(name: str, cells: list[str]) -> str:
    short = name if len(name) < _NAME else name[: _NAME - 2] + "~"
    return short.ljust(_NAME) + "".join(cell.rjust(_CELL) for cell in cells)


def _percent(score: Score) -> str:
    return f"{100 * score.accuracy:.2f}" if score.asked else "-"


def _half_width(score: Score) -> str:
    """Half the width of Wilson's interval, percent points."""
    low, high = score.interval
    return f"{50 * (high - low):.2f}" if score.asked else "-"
