"""Which attention kernel a run takes: the faster one, measured on its own worst pack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from qllava.errors import UsageError
from qllava.model.attention import FLEX_FROM, AttentionKernel

AttentionSetting = Literal["auto", "sdpa", "flex", "segments"]
# FlexAttention has to win by more than timing varies.
_WORTH_IT = 0.97


def fixed_attention(setting: AttentionSetting, *, device: str, token_budget: int | None) -> AttentionKernel | None:
    """The kernel where there is nothing to measure: as asked, on a processor, and for short packs; else None.

    Raises:
        UsageError: FlexAttention on a processor, where it has no backward pass.
    """
    if device != "cuda":
        if setting == "flex":
            raise UsageError("train.attention=flex needs an NVIDIA card; use --set train.attention=segments")
        return "segments" if setting == "auto" else setting
    if setting != "auto":
        return setting
    return "sdpa" if token_budget is None or token_budget < FLEX_FROM else None


def faster_attention(seconds: Callable[[AttentionKernel], float | None]) -> tuple[AttentionKernel, str]:
    """The kernel with the faster step, and why; `seconds` is None for one that does not run."""
    dense, sparse = seconds("sdpa"), seconds("flex")
    if sparse is None:
        return "sdpa", "flex does not run here"
    if dense is None:
        return "flex", "sdpa does not run here"
    why = f"measured: flex {sparse:.2f} s, sdpa {dense:.2f} s a pack"
    return ("flex" if sparse < _WORTH_IT * dense else "sdpa"), why
