"""Is one model better than another? A paired bootstrap over the scores of the same questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qllava.errors import DataError
from qllava.evaluate.bootstrap import Difference, paired_difference
from qllava.evaluate.score_file import QuestionScore, ScoreSheet

# The difference counts as one below this p.
LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """B against A: means, difference with interval and p, overall and by kind (sorted).

    `better`, `worse` and `same` count the questions by which score is higher.
    """

    a: float
    b: float
    difference: Difference
    by_kind: Mapping[str, tuple[float, float, Difference]]
    better: int
    worse: int
    same: int

    def sentence(self) -> str:
        """One line for people."""
        change = f"{self.difference.value:+.3f} ({self.difference.low:+.3f} to {self.difference.high:+.3f})"
        if self.difference.p >= LEVEL:
            return f"no difference is shown: B scores {change} against A, p {self.difference.p:.3f}"
        word = "better" if self.difference.value > 0 else "worse"
        return f"B is {word} than A: {change}, p {self.difference.p:.4f}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "a": self.a,
            "b": self.b,
            "difference": self.difference.to_dict(),
            "questions": {"better": self.better, "worse": self.worse, "same": self.same},
            "by_kind": {
                kind: {"a": a, "b": b, "difference": difference.to_dict()}
                for kind, (a, b, difference) in self.by_kind.items()
            },
        }


def compare(a: ScoreSheet, b: ScoreSheet, *, seed: int = 0) -> Comparison:
    """Compare two models on the same questions.

    Args:
        a, b: score files of one question set and metric.
        seed: of the resampling.

    Raises:
        DataError: another benchmark, question set, metric or choice of questions.
    """
    _check_same_questions(a, b)
    of_b = {row.id: row for row in b.rows}
    pairs = [(row, of_b[row.id]) for row in a.rows]
    kinds = sorted({row.kind for row in a.rows})
    by_kind = {kind: _paired([pair for pair in pairs if pair[0].kind == kind], seed) for kind in kinds}
    mean_a, mean_b, difference = _paired(pairs, seed)
    better = sum(theirs.score > ours.score for ours, theirs in pairs)
    worse = sum(theirs.score < ours.score for ours, theirs in pairs)
    return Comparison(mean_a, mean_b, difference, by_kind, better, worse, len(pairs) - better - worse)


def _paired(pairs: list[tuple[QuestionScore, QuestionScore]], seed: int) -> tuple[float, float, Difference]:
    a, b = [ours.score for ours, _ in pairs], [theirs.score for _, theirs in pairs]
    groups = [ours.group or f"#{ours.id}" for ours, _ in pairs]
    return sum(a) / len(a), sum(b) / len(b), paired_difference(a, b, groups, seed=seed)


def _check_same_questions(a: ScoreSheet, b: ScoreSheet) -> None:
    for what, ours, theirs in (
        ("benchmark", a.heading.benchmark, b.heading.benchmark),
        ("question set", a.heading.questions, b.heading.questions),
        ("metric", a.metric, b.metric),
    ):
        if ours != theirs:
            raise DataError(f"A and B are not of the same {what} ({ours} and {theirs}); compare scores of one")
    alone = {row.id for row in a.rows} ^ {row.id for row in b.rows}
    if alone:
        raise DataError(
            f"A scores {len(a.rows)} questions and B {len(b.rows)}, {len(alone)} of them in one alone "
            f"(first: id {min(alone)!r}); run both with the same --limit"
        )
