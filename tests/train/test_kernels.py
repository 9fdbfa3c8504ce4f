"""Which attention kernel is taken."""

from __future__ import annotations

import pytest

from qllava.errors import UsageError
from qllava.model.attention import AttentionKernel
from qllava.train.kernels import AttentionSetting, faster_attention, fixed_attention


@pytest.mark.parametrize(
    ("setting", "device", "budget", "expected"),
    [
        ("auto", "cpu", 8192, "segments"),
        ("sdpa", "cpu", 8192, "sdpa"),
        ("segments", "cuda", 8192, "segments"),
        ("auto", "cuda", 2048, "sdpa"),
        ("auto", "cuda", None, "sdpa"),
        ("auto", "cuda", 8192, None),
        ("flex", "cuda", 2048, "flex"),
        ("sdpa", "cuda", 8192, "sdpa"),
    ],
)
def test_where_there_is_nothing_to_measure(
    setting: AttentionSetting, device: str, budget: int | None, expected: AttentionKernel | None
) -> None:
    assert fixed_attention(setting, device=device, token_budget=budget) == expected


def test_flex_needs_a_card() -> None:
    with pytest.raises(UsageError, match=r"attention=flex needs an NVIDIA card; use --set train.attention=segments"):
        fixed_attention("flex", device="cpu", token_budget=4096)


@pytest.mark.parametrize(
    ("sdpa", "flex", "expected"),
    [(1.0, 0.8, "flex"), (1.0, 0.99, "sdpa"), (1.0, 1.3, "sdpa"), (1.0, None, "sdpa"), (None, 1.0, "flex")],
)
def test_the_faster_one_wins(sdpa: float | None, flex: float | None, expected: str) -> None:
    asked: list[str] = []

    def seconds(kernel: AttentionKernel) -> float | None:
        asked.append(kernel)
        return {"sdpa": sdpa, "flex": flex}[kernel]

    assert faster_attention(seconds)[0] == expected
    assert asked == ["sdpa", "flex"]
