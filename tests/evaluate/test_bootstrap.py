"""Intervals and paired differences against values by hand and exact enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from qllava.evaluate.bootstrap import Estimate, paired_difference, ratio_estimate


def test_nothing_has_no_interval() -> None:
    assert ratio_estimate([]) == Estimate(0.0, 0.0, 0.0)
    assert Estimate(0.5, 0.25, 0.75).to_dict() == {"value": 0.5, "interval": [0.25, 0.75]}


def test_a_ratio_weighs_by_its_denominators() -> None:
    """(2 + 6) / (1 + 3), not the mean of 2 and 2; with equal ratios there is nothing to vary."""
    assert ratio_estimate([2.0, 6.0], [1.0, 3.0]) == Estimate(2.0, 2.0, 2.0)
    assert ratio_estimate([1.0, 0.0, 0.0, 1.0]).value == 0.5


def test_the_interval_is_that_of_every_possible_resample() -> None:
    values = [0.0, 0.0, 1.0, 1.0, 5.0]
    means = [float(np.mean(drawn)) for drawn in itertools.product(values, repeat=5)]
    low, high = np.percentile(means, (2.5, 97.5))
    found = ratio_estimate(values, resamples=20_000)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.21)  # one step of the means is 0.2
    assert found == ratio_estimate(values, resamples=20_000)


def test_the_draws_depend_on_the_seed_alone() -> None:
    values = [0.13, 0.7, 1.9, 2.3, 5.1, 0.02]
    assert ratio_estimate(values, resamples=50) == ratio_estimate(values, resamples=50)
    assert ratio_estimate(values, resamples=50) != ratio_estimate(values, resamples=50, seed=1)


def test_questions_about_one_picture_are_drawn_together() -> None:
    """Two pictures with ten equal questions each vary like two questions, not like twenty."""
    scores = [0.0] * 10 + [1.0] * 10
    alone = ratio_estimate(scores)
    together = ratio_estimate(scores, groups=["a"] * 10 + ["b"] * 10)
    assert (together.value, together.low, together.high) == (0.5, 0.0, 1.0)
    assert 0.2 < alone.low < alone.high < 0.8


def test_equal_scores_show_no_difference() -> None:
    found = paired_difference([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_p_by_hand() -> None:
    """With differences 1, 1, 1, -1 a resample's sum is <= 0 where at least two of four draws are the last: 67/256."""
    found = paired_difference([0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0], resamples=40_000)
    assert found.value == 0.5
    assert found.p == pytest.approx(2 * 67 / 256, abs=0.01)


def test_a_sure_difference_has_the_smallest_p_there_is() -> None:
    found = paired_difference([0.0] * 12, [1.0] * 12, resamples=999)
    assert (found.value, found.low, found.high, found.p) == (1.0, 1.0, 1.0, 2 / 1000)


def test_pairs_are_needed() -> None:
    with pytest.raises(ValueError, match="paired scores are needed, got 0 and 0"):
        paired_difference([], [])
    with pytest.raises(ValueError, match="got 1 and 2"):
        paired_difference([1.0], [1.0, 2.0])
