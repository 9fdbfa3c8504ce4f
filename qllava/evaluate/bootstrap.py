"""Intervals and differences by resampling, pictures as wholes: questions about one picture are not independent.

Percentile bootstrap (Efron and Tibshirani 1993, sections 13 and 16). Shapes: N questions, G groups, R resamples.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
SEED = 0
# Draws of one go, so that a large set needs no gigabytes.
_DRAWS = 4_000_000

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON: value, interval."""
        return {"value": self.value, "interval": [self.low, self.high]}


@dataclass(frozen=True, slots=True)
class Difference:
    """B minus A over the same questions: the mean difference with its 95 % interval, and p.

    `p` is two-sided: how often a resample falls on the other side of no difference, twice; at least 2 / (R + 1).
    """

    value: float
    low: float
    high: float
    p: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON: value, interval, p."""
        return {"value": self.value, "interval": [self.low, self.high], "p": self.p}


def ratio_estimate(
    numerators: Sequence[float],
    denominators: Sequence[float] | None = None,
    groups: Sequence[Hashable] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Estimate:
    """sum(numerators) / sum(denominators) with its interval; a plain mean where no denominators are given.

    Args:
        numerators: (N,) e.g. the loss of each sample.
        denominators: (N,) e.g. its tokens, above 0; 1 each unless given.
        groups: (N,) what is drawn together, e.g. the picture; each question on its own unless given.
        resamples: R.
        seed: of the draws.

    Returns: 0 with the interval 0-0 when there is nothing.
    """
    if not numerators:
        return Estimate(0.0, 0.0, 0.0)
    top = np.asarray(numerators, dtype=np.float64)
    bottom = np.ones_like(top) if denominators is None else np.asarray(denominators, dtype=np.float64)
    drawn = _resampled(top, bottom, groups, resamples, seed)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Estimate(float(top.sum() / bottom.sum()), float(low), float(high))


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    *,
    weights: Sequence[float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Difference:
    """B minus A, question by question.

    Args:
        a, b: (N,) scores of the same questions in the same order, at least one.
        groups: as for `ratio_estimate`.
        weights: (N,) what the sums are divided by, e.g. tokens where `a` and `b` are sums over them; 1 each unless
            given.
        resamples, seed: as for `ratio_estimate`.

    Raises:
        ValueError: no scores, or of different number.
    """
    if not a or len(a) != len(b):
        raise ValueError(f"paired scores are needed, got {len(a)} and {len(b)}")
    top = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    bottom = np.ones_like(top) if weights is None else np.asarray(weights, dtype=np.float64)
    drawn = _resampled(top, bottom, groups, resamples, seed)
    low, high = np.percentile(drawn, (2.5, 97.5))
    # One more than counted: the data themselves are a resample too, and p is never 0.
    below, above = int((drawn <= 0).sum()) + 1, int((drawn >= 0).sum()) + 1
    p = min(1.0, 2 * min(below, above) / (resamples + 1))
    return Difference(float(top.sum() / bottom.sum()), float(low), float(high), p)


def _resampled(top: Floats, bottom: Floats, groups: Sequence[Hashable] | None, resamples: int, seed: int) -> Floats:
    """(R,) sum(top) / sum(bottom) over groups drawn with replacement."""
    if groups is not None:
        place: dict[Hashable, int] = {}
        index = np.asarray([place.setdefault(group, len(place)) for group in groups])
        sums = [np.bincount(index, weights=values).astype(np.float64) for values in (top, bottom)]
        top, bottom = sums
    generator = np.random.default_rng(seed)
    parts = []
    for count in _portions(resamples, len(top)):
        drawn = generator.integers(len(top), size=(count, len(top)))
        parts.append(top[drawn].sum(1) / bottom[drawn].sum(1))
    return np.concatenate(parts)


def _portions(resamples: int, width: int) -> Iterator[int]:
    at_once = max(1, _DRAWS // width)
    for start in range(0, resamples, at_once):
        yield min(at_once, resamples - start)
