"""The relative score: mean(candidate) / mean(reference) x 100, by category and overall, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ALL = "all"
_RESAMPLES = 10_000
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Relative:
    """One score. `questions` have a verdict; without any, everything but the count is None.

    `reference` and `candidate` are means, 1-10; `interval` is the 95 % percentile bootstrap over questions.
    """

    questions: int
    reference: float | None = None
    candidate: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def score(self) -> float | None:
        """Percent of the reference; above 100 where the candidate is preferred."""
        if self.reference is None or self.candidate is None:
            return None
        return 100.0 * self.candidate / self.reference

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "score": self.score,
            "interval": None if self.interval is None else list(self.interval),
            "reference": self.reference,
            "candidate": self.candidate,
            "questions": self.questions,
        }


def relative(pairs: Sequence[tuple[float, float]], *, seed: int = 0) -> Relative:
    """The score of (reference, candidate) pairs, one a question; a ratio of means, not a mean of ratios."""
    if not pairs:
        return Relative(0)
    values = np.asarray(pairs, dtype=np.float64)
    means = values.mean(axis=0)
    generator = np.random.default_rng(seed)
    scores = np.empty(_RESAMPLES)
    for start in range(0, _RESAMPLES, _AT_ONCE):
        draw = generator.integers(len(values), size=(_AT_ONCE, len(values)))
        sums = values[draw].sum(axis=1)
        scores[start : start + _AT_ONCE] = 100.0 * sums[:, 1] / sums[:, 0]
    low, high = np.percentile(scores, [2.5, 97.5])
    return Relative(len(values), float(means[0]), float(means[1]), (float(low), float(high)))


def by_category(
    pairs: Mapping[str, tuple[float, float]], categories: Mapping[str, str], *, seed: int = 0
) -> dict[str, Relative]:
    """Scores by category, in the order of the question set, and `all` last.

    Args:
        pairs: (reference, candidate) by question id; a question without a verdict is not in it.
        categories: category by question id, of all questions.
        seed: of the bootstrap.
    """
    named: dict[str, list[tuple[float, float]]] = {category: [] for category in categories.values()}
    for question, category in categories.items():
        if question in pairs:
            named[category].append(pairs[question])
    scores = {category: relative(of, seed=seed) for category, of in named.items()}
    every = [pair for of in named.values() for pair in of]
    return {**scores, ALL: relative(every, seed=seed)}
