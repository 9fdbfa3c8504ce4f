"""Exact match after normalisation, with intervals."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qllava.errors import DataError
from qllava.evaluate.questions import Question

_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    word: str(value)
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
    )
} | {"none": "0"}
# A dot or comma between digits belongs to the number; what joins words becomes a space; the rest goes.
_NUMBER_COMMA = re.compile(r"(?<=\d),(?=\d{3}\b)")
_JOINER = re.compile(r"[-/_]")
_PUNCTUATION = re.compile(r"(?<!\d)\.|\.(?!\d)|[^\w\s.]")
# 97.5 % point of the normal distribution: two-sided 95 %.
_Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Score:
    """`right` of `asked` questions."""

    right: int
    asked: int

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0-1; 0 when nothing was asked."""
        return self.right / self.asked if self.asked else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy (Wilson 1927), 0-1; it holds for few questions and near 0 and 1."""
        if not self.asked:
            return 0.0, 1.0
        n, p = self.asked, self.accuracy
        scale = 1 + _Z * _Z / n
        middle = (p + _Z * _Z / (2 * n)) / scale
        half = _Z / scale * math.sqrt(p * (1 - p) / n + _Z * _Z / (4 * n * n))
        # At 0 and n right answers the bound is exactly 0 or 1, which floating point only comes near to.
        return (max(0.0, middle - half) if self.right else 0.0), (min(1.0, middle + half) if self.right < n else 1.0)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: right, asked, accuracy, interval."""
        return {"right": self.right, "asked": self.asked, "accuracy": self.accuracy, "interval": list(self.interval)}


@dataclass(frozen=True)
class Scores:
    """Exact match over a question set, overall and by kind (sorted); questions left unanswered count as wrong."""

    overall: Score
    by_kind: Mapping[str, Score]
    unanswered: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.overall.to_dict(),
            "unanswered": self.unanswered,
            "by_kind": {kind: score.to_dict() for kind, score in self.by_kind.items()},
        }


def normalize_answer(answer: str) -> str:
    """An answer as it is compared, after the VQA v2 evaluation's rules (Antol et al. 2015, section 3.1).

    Lower case; punctuation out (`-`, `/`, `_` become spaces; dots and commas inside numbers are kept or joined);
    articles out; number words up to twelve, and `none`, as digits; white space single. Contractions are not expanded:
    their apostrophes go on both sides alike.
    """
    lowered = unicodedata.normalize("NFKC", answer).lower()
    words = _PUNCTUATION.sub("", _JOINER.sub(" ", _NUMBER_COMMA.sub("", lowered))).split()
    return " ".join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)


def is_right(answer: str, question: Question) -> bool:
    """Whether an answer equals one of the accepted ones after normalisation."""
    return normalize_answer(answer) in {normalize_answer(accepted) for accepted in question.answers}


def exact_match(answers: Mapping[str, str], questions: Sequence[Question]) -> Scores:
    """Score answers by question id.

    Raises:
        DataError: an answer to no question of this set.
    """
    unknown = sorted(answers.keys() - {question.id for question in questions})
    if unknown:
        raise DataError(
            f"{len(unknown)} answers are to no question of this set (first: id {unknown[0]!r}); check the file"
        )
    kinds: dict[str, list[bool]] = {}
    for question in questions:
        right = question.id in answers and is_right(answers[question.id], question)
        kinds.setdefault(question.kind, []).append(right)
    by_kind = {kind: Score(sum(marks), len(marks)) for kind, marks in sorted(kinds.items())}
    overall = Score(sum(score.right for score in by_kind.values()), len(questions))
    return Scores(overall, by_kind, unanswered=len(questions) - len(answers))
