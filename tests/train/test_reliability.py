"""Real runs, killed and disturbed by `examples/prove_reliability.py`; what it counts must be without a loss."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def prove(*arguments: str, timeout: float) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "prove_reliability.py"), "--json", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    figures: dict[str, Any] = json.loads(done.stdout)
    assert figures["lost"] == []
    for name, figure in figures.items():
        if isinstance(figure, dict):
            assert figure["good"] == figure["tried"], name
    return figures


@pytest.mark.timeout(600)
def test_four_kills_lose_nothing() -> None:
    figures = prove("--only", "kills", "flips", "--kills", "4", "--flips", "40", timeout=580)
    assert figures["kills"]["tried"] == 4
    assert figures["flips"]["tried"] == 40


@pytest.mark.slow
def test_thirty_kills_full_disks_flips_and_chaos_lose_nothing() -> None:
    figures = prove(timeout=1700)
    assert figures["kills"]["tried"] == 30
    assert figures["kills"]["where"]["saving"] >= 3
    assert figures["flips"]["tried"] == 200
    assert figures["disk"]["tried"] >= 10
    assert figures["chaos"]["tried"] >= 9
