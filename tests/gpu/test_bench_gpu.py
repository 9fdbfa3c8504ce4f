"""On a CUDA card: `qllava bench` and the planner against it. One command runs all of it:

    make test-gpu        # or: python -m pytest -m gpu tests/gpu/test_bench_gpu.py --timeout 3600

Models are of true dimensions with random weights, so nothing is downloaded. Skipped, with the reason, without a card.
Nothing here asserts a speed: the tables in the README say with which machine and versions theirs were measured.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any

import pytest

from qllava.plan.device import nvidia_present
from qllava.plan.plan import make_plan
from qllava.recipe import load_recipe
from qllava.types import STAGE_NAMES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not nvidia_present(), reason="needs an NVIDIA card of 24 GB or more; there is none here"),
]


def bench(*arguments: str) -> dict[str, Any]:
    """One `qllava bench` of random weights, as a person would run it."""
    program = shutil.which("qllava")
    start = [program] if program else [sys.executable, "-m", "qllava_cli.main"]
    command = [*start, "bench", "--random-weights", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def ours(result: dict[str, Any]) -> dict[str, Any]:
    (row,) = (row for row in result["contenders"] if row["name"] == "qllava")
    return dict(row)


@pytest.mark.parametrize("recipe", ["llava-1.5-7b", "llava-1.5-13b"])
@pytest.mark.parametrize("stage", [1, 2])
def test_it_trains_under_24_gb(recipe: str, stage: int) -> None:
    row = ours(bench("--recipe", recipe, "--stage", str(stage), "--vram", "24", "--steps", "2"))
    assert not row["out_of_memory"]
    assert row["samples_per_second"] > 0
    assert row["loss"] > 0
    # What torch holds, and the context beside it, are within the cap.
    assert row["peak_bytes"] <= (24 - 0.5) * 2**30


@pytest.mark.parametrize("recipe", ["llava-1.5-7b", "llava-1.5-13b"])
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("vram", [24, 20, 17])
def test_the_planners_peak_is_within_a_tenth_of_the_measured_one(recipe: str, stage: int, vram: int) -> None:
    result = bench("--recipe", recipe, "--stage", str(stage), "--vram", str(vram), "--steps", "3")
    measured = ours(result)["peak_bytes"] / 2**30
    assert result["planned_peak_gib"] == pytest.approx(measured, rel=0.10)


def test_against_trl_under_24_gb() -> None:
    result = bench("--recipe", "llava-1.5-7b", "--stage", "2", "--vram", "24", "--steps", "2", "--against", "trl")
    names = [row["name"] for row in result["contenders"]]
    assert names[:2] == ["qllava", "trl, defaults"]
    assert names[2].startswith("trl, best (batch ")
    assert result["ratio_best"] > 0
    default = result["contenders"][1]
    assert (result["ratio_default"] is None) == default["out_of_memory"]


def test_a_profile_names_every_kind() -> None:
    result = bench("--recipe", "llava-1.5-7b", "--stage", "2", "--vram", "24", "--steps", "1", "--profile")
    shares = result["profile"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["GEMM"] > shares["head"] > 0
    assert shares["NF4 dequantisation"] > 0
    assert shares["attention"] > 0


def test_the_planner_gives_budgets_their_own_policy() -> None:
    """The budgets above are not one plan three times."""
    from qllava.plan.cards import sized_card

    plans = [
        make_plan(load_recipe("llava-1.5-13b"), STAGE_NAMES[2], sized_card(vram), vram_gib=vram)
        for vram in (24, 20, 17)
    ]
    assert len({(plan.checkpoint_every, plan.token_budget) for plan in plans}) > 1
    assert all(isinstance(plan.fits, bool) and plan.fits for plan in plans)
