"""The step plan: what belongs to which optimizer step."""

from __future__ import annotations

from collections import Counter

import pytest

from qllava.data.steps import plan_steps


def test_every_sample_once_an_epoch_in_full_batches() -> None:
    plan = plan_steps([f"img{i // 3}" for i in range(25)], batch_size=8, epochs=2, seed=1)
    assert [len(plan.members(step)) for step in range(len(plan))] == [8, 8, 8, 1, 8, 8, 8, 1]
    first = [i for step in range(4) for i in plan.members(step)]
    second = [i for step in range(4, 8) for i in plan.members(step)]
    assert sorted(first) == sorted(second) == list(range(25))
    assert first != second


def test_samples_of_a_picture_stay_together() -> None:
    groups = [f"img{i % 10}" for i in range(40)]
    plan = plan_steps(groups, batch_size=8, epochs=1, seed=3)
    for step in range(len(plan)):
        assert sorted(Counter(groups[i] for i in plan.members(step)).values()) == [4, 4]


def test_depends_on_data_and_seed_only() -> None:
    groups = list(range(50))
    plans = [plan_steps(groups, batch_size=7, epochs=1, seed=seed).order.tolist() for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]


@pytest.mark.parametrize(("epochs", "samples"), [(0.5, 10), (1.0, 20), (1.5, 30)])
def test_fractions_of_an_epoch(epochs: float, samples: int) -> None:
    plan = plan_steps(list(range(20)), batch_size=4, epochs=epochs, seed=0)
    assert plan.bounds[-1] == len(plan.order) == samples


def test_step_cap_keeps_the_beginning() -> None:
    whole = plan_steps(list(range(40)), batch_size=4, epochs=2, seed=0)
    capped = plan_steps(list(range(40)), batch_size=4, epochs=2, seed=0, max_steps=12)
    assert len(capped) == 12
    assert [capped.members(i) for i in range(12)] == [whole.members(i) for i in range(12)]
    assert len(plan_steps(list(range(40)), batch_size=4, epochs=1, seed=0, max_steps=99)) == 10
