"""Relative scores as text, 80 columns wide; scores of different judges never stand together without a word about it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from qllava.evaluate.judge.relative import ALL, Relative
from qllava.evaluate.judge.reviews import UNKNOWN, Reviewed
from qllava.evaluate.judge.run import Judged

_NAME = 22
_CELL = 9


def bench_table(judged: Judged, layout: str, name: str) -> str:
    """One model's scores; for In-the-Wild under the published rows."""
    import yaml  # noqa: PLC0415 - 30 ms that `--help` does not need

    text = files("qllava.evaluate.judge").joinpath("published.yaml").read_text(encoding="utf-8")
    known: dict[str, Any] = yaml.safe_load(text).get(layout, {"judge": None, "rows": {}})
    columns = list(judged.scores)
    lines = [_line("", columns)]
    for row, values in known["rows"].items():
        lines.append(_line(row, [f"{values[c]:.1f}" if c in values else "-" for c in columns]))
    if known["rows"]:
        lines.append("-" * (_NAME + _CELL * len(columns)))
    lines.append(_line(name, [_score(judged.scores[c]) for c in columns]))
    lines.append(_line("  95 % from", [_bound(judged.scores[c], 0) for c in columns]))
    lines.append(_line("  to", [_bound(judged.scores[c], 1) for c in columns]))
    lines.append(_line("  questions judged", [str(judged.scores[c].questions) for c in columns]))
    lines += _details(judged)
    lines.append(f"judge: {judged.judge}; rules: {judged.rules}")
    if known["rows"] and known["judge"] != judged.judge:
        lines.append(f"the published rows were judged by {known['judge']}: not comparable with {judged.judge}")
    return "\n".join(lines)


def reviews_table(reviewed: Sequence[Reviewed]) -> str:
    """Scores of review files, one a line."""
    columns = [*dict.fromkeys(c for one in reviewed for c in one.judged.scores if c != ALL), ALL]
    lines = [_line("", [*columns, "failed"])]
    for one in reviewed:
        cells = [_score(one.judged.scores.get(column, Relative(0))) for column in columns]
        lines.append(_line(one.path.stem, [*cells, str(sum(one.judged.failures.values()))]))
    lines += [f"{one.path}: judge {one.judged.judge}" for one in reviewed]
    if len(reviewed) > 1:
        judges = {one.judged.judge for one in reviewed}
        if UNKNOWN in judges:
            lines.append("not every file names its judge: compare the lines only where you know it is the same one")
        elif len(judges) > 1:
            lines.append(f"judged by different models ({', '.join(sorted(judges))}): the lines are not comparable")
    return "\n".join(lines)


def _details(judged: Judged) -> list[str]:
    lines = [f"{order}: {_score(score)}" for order, score in judged.orders.items()]
    if judged.spread is not None:
        shown = ", ".join(_score(score) for score in judged.repeats)
        lines.append(f"repetitions: {shown}; standard deviation {judged.spread:.2f}")
    bad = {reason: count for reason, count in judged.failures.items() if count}
    if bad:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in bad.items())
        lines.append(f"failed judgements, in no score: {sum(bad.values()):,} of {len(judged.judgements):,} ({reasons})")
    if judged.no_answer:
        lines.append(f"questions without an answer, in no score: {len(judged.no_answer):,}")
    return lines


def _line(name: str, cells: Sequence[str]) -> str:
    short = name if len(name) < _NAME else name[: _NAME - 2] + "~"
    return short.ljust(_NAME) + "".join(cell.rjust(_CELL) for cell in cells)


def _score(score: Relative) -> str:
    return "-" if score.score is None else f"{score.score:.1f}"


def _bound(score: Relative, side: int) -> str:
    return "-" if score.interval is None else f"{score.interval[side]:.1f}"
