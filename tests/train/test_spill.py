"""Steps that suddenly take several times as long are noticed, others are not."""

from __future__ import annotations

import random
from pathlib import Path

from qllava.train.spill import SpillDetector, under_wsl


def observe(times: list[float], tokens: int = 1000) -> list[tuple[int, float]]:
    detector = SpillDetector()
    found = [(i, detector.observe(seconds=seconds, tokens=tokens)) for i, seconds in enumerate(times)]
    return [(i, slower) for i, slower in found if slower is not None]


def test_a_spill_is_told_once_at_its_third_step() -> None:
    ((step, slower),) = observe([9.0] + [1.0] * 20 + [8.0] * 30)
    assert step == 23
    assert slower == 8.0


def test_a_second_spill_is_told_again() -> None:
    assert [step for step, _ in observe([9.0] + [1.0] * 10 + [8.0] * 5 + [1.0] * 5 + [6.0] * 5)] == [13, 23]


def test_ordinary_steps_are_no_spill() -> None:
    rng = random.Random(0)
    noisy = [30.0] + [rng.uniform(0.7, 1.6) for _ in range(300)]
    hiccups = [30.0] + [8.0 if i % 10 == 9 else 1.0 for i in range(100)]
    throttled = [30.0] + [1.0] * 20 + [2.5] * 50
    assert observe(noisy) == observe(hiccups) == observe(throttled) == []


def test_longer_steps_are_not_slower_ones() -> None:
    detector = SpillDetector()
    pairs = [(1.0, 1000)] * 10 + [(8.0, 8000)] * 10
    assert [detector.observe(seconds=seconds, tokens=tokens) for seconds, tokens in pairs] == [None] * 20


def test_wsl_is_known_by_its_kernel(tmp_path: Path) -> None:
    version = tmp_path / "version"
    assert not under_wsl(version)
    version.write_text("Linux version 6.6.87.2-microsoft-standard-WSL2 (root@x) (gcc 11)")
    assert under_wsl(version)
    version.write_text("Linux version 6.8.0-45-generic (buildd@lcy02)")
    assert not under_wsl(version)
