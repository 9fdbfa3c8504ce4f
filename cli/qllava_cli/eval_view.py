"""Tables of results, 80 columns wide at most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from qllava.evaluate.ask import Condition
    from qllava.evaluate.bootstrap import Estimate
    from qllava.evaluate.compare import Comparison
    from qllava.evaluate.exact_match import Score
    from qllava.evaluate.sees import Sight
    from qllava.evaluate.vqa import VqaScores

_PICTURES = {"right": "right picture", "shuffled": "shuffled", "none": "no picture"}


def vqa_table(scores: Mapping[Condition, VqaScores]) -> Table:
    """Accuracy by kind of question, a column for each condition: VQA v2's where questions have ten answers."""
    first = next(iter(scores.values()))
    metric = "Exact match" if first.soft is None else "VQA v2 accuracy"
    table = Table(title=f"{metric} (95 % interval)", title_justify="left")
    table.add_column("questions")
    table.add_column("number", justify="right")
    for condition in scores:
        table.add_column(_PICTURES[condition], justify="right")
    for kind, score in first.exact.by_kind.items():
        table.add_row(kind or "(no kind)", str(score.asked), *(_kind_cell(each, kind) for each in scores.values()))
    table.add_section()
    overall = [_score(s.exact.overall) if s.soft is None else _estimate(s.soft) for s in scores.values()]
    table.add_row("all", str(first.exact.overall.asked), *overall, style="bold")
    return table


def sees_table(sight: Sight) -> Table:
    """Loss and accuracy under each condition."""
    table = Table(
        title=f"Answers to {sight.samples} samples about {sight.pictures} pictures (95 % interval)",
        title_justify="left",
    )
    table.add_column("picture")
    table.add_column("loss, nats a token", justify="right")
    table.add_column("more than right", justify="right")
    table.add_column("tokens right", justify="right")
    costs = {"shuffled": sight.shuffled_costs, "none": sight.none_costs}
    for name, seen in sight.conditions.items():
        more = costs.get(name)
        cell = "" if more is None else f"{more.value:+.2f} ({more.low:+.2f} to {more.high:+.2f})"
        table.add_row(name, _estimate(seen.loss), cell, _estimate(seen.accuracy))
    return table


def compare_table(comparison: Comparison) -> Table:
    """A, B and their difference, by kind."""
    table = Table(title="B minus A (95 % interval)", title_justify="left")
    for name in ("questions", "A", "B", "difference", "p"):
        table.add_column(name, justify="left" if name == "questions" else "right")
    rows = dict(comparison.by_kind) if len(comparison.by_kind) > 1 else {}
    for kind, (a, b, difference) in rows.items():
        change = f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
        table.add_row(kind or "(no kind)", f"{a:.3f}", f"{b:.3f}", change, _p(difference.p))
    if rows:
        table.add_section()
    whole = comparison.difference
    change = f"{whole.value:+.3f} ({whole.low:+.3f} to {whole.high:+.3f})"
    table.add_row("all", f"{comparison.a:.3f}", f"{comparison.b:.3f}", change, _p(whole.p), style="bold")
    return table


def _kind_cell(scores: VqaScores, kind: str) -> str:
    return _score(scores.exact.by_kind[kind]) if scores.soft is None else _estimate(scores.soft_by_kind[kind])


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _score(score: Score) -> str:
    low, high = score.interval
    return f"{score.accuracy:.2f} ({low:.2f}-{high:.2f})"


def _estimate(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f}-{estimate.high:.2f})"
