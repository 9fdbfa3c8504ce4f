"""The ScienceQA table: accuracy in every published column, failures counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qllava.errors import DataError
from qllava.evaluate.exact_match import Score
from qllava.evaluate.science_qa.extract import FAILURES, Chosen, extract_choice
from qllava.evaluate.science_qa.problems import Problem

COLUMNS: Mapping[str, Callable[[Problem], bool]] = {
    "NAT": lambda problem: problem.subject == "natural science",
    "SOC": lambda problem: problem.subject == "social science",
    "LAN": lambda problem: problem.subject == "language science",
    "TXT": lambda problem: bool(problem.hint),
    "IMG": lambda problem: problem.image is not None,
    "NO": lambda problem: not problem.hint and problem.image is None,
    "G1-6": lambda problem: problem.grade <= 6,
    "G7-12": lambda problem: problem.grade > 6,
    "Avg": lambda problem: True,
}
"""Which problems a column counts (ScienceQA's `evaluate_acc.py`); TXT and IMG overlap, so the columns are no sum."""


@dataclass(frozen=True)
class ScienceScores:
    """Accuracy by column; a failure counts as wrong. `failures` by reason, all reasons named."""

    columns: Mapping[str, Score]
    failures: Mapping[str, int]

    @property
    def failed(self) -> int:
        """Problems without an answer that could be read."""
        return sum(self.failures.values())

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "columns": {name: score.to_dict() for name, score in self.columns.items()},
            "failed": self.failed,
            "failures": dict(self.failures),
        }


def choose_all(answers: Mapping[str, str], problems: Sequence[Problem]) -> dict[str, Chosen]:
    """What each problem's answer names, by problem id.

    Raises:
        DataError: an answer to no problem of this split.
    """
    unknown = sorted(answers.keys() - {problem.id for problem in problems})
    if unknown:
        raise DataError(
            f"{len(unknown)} answers are to no problem of this split (first: id {unknown[0]!r}); check --split"
        )
    return {problem.id: extract_choice(answers.get(problem.id), len(problem.choices)) for problem in problems}


def score_choices(chosen: Mapping[str, Chosen], problems: Sequence[Problem]) -> ScienceScores:
    """The table of one answer a problem, by problem id; a problem that is not in `chosen` counts as unanswered."""
    missing = Chosen(None, "unanswered")
    taken = [(problem, chosen.get(problem.id, missing)) for problem in problems]
    columns: dict[str, Score] = {}
    for name, counts in COLUMNS.items():
        marks = [found.choice == problem.answer for problem, found in taken if counts(problem)]
        columns[name] = Score(sum(marks), len(marks))
    reasons = Counter(found.failure for _, found in taken if found.failure is not None)
    return ScienceScores(columns, {reason: reasons[reason] for reason in FAILURES})


def score_answers(answers: Mapping[str, str], problems: Sequence[Problem]) -> ScienceScores:
    """The table of a model's answers by problem id.

    Raises:
        DataError: as `choose_all`.
    """
    return score_choices(choose_all(answers, problems), problems)
