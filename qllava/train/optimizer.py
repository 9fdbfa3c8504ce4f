"""AdamW over the trained parameters: fused with fp32 states, or on a card that is full, paged with 8-bit ones.

The projector's states are fp32 either way: every picture passes through it, and its states are small beside LoRA's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from bitsandbytes.optim import AdamW as BitsAndBytesAdamW
from bitsandbytes.optim import GlobalOptimManager
from torch import nn

from qllava.errors import UsageError

OptimizerSetting = Literal["auto", "adamw", "paged_adamw_8bit"]
Optimizer = Literal["adamw", "paged_adamw_8bit"]
# Bytes of both moments of one parameter; 8-bit ones have an fp32 scale for each 256.
STATE_BYTES: dict[Optimizer, float] = {"adamw": 8.0, "paged_adamw_8bit": 2 + 2 * 4 / 256}


def choose_optimizer(setting: OptimizerSetting, *, device: str, fits: bool) -> Optimizer:
    """The optimizer of a run; `fits` is whether the planner finds room for fp32 states.

    Raises:
        UsageError: 8-bit states were asked for on a processor, where they are 40 times slower and cannot be paged.
    """
    if setting == "paged_adamw_8bit" and device != "cuda":
        raise UsageError("train.optimizer=paged_adamw_8bit needs an NVIDIA card; use --optimizer adamw")
    if setting == "auto":
        return "adamw" if fits or device != "cuda" else "paged_adamw_8bit"
    return setting


def build_optimizer(
    kind: Optimizer, groups: Sequence[dict[str, Any]], *, keep_fp32: Sequence[nn.Parameter], **settings: Any
) -> torch.optim.Optimizer:
    """AdamW over parameter groups.

    Args:
        kind: see `choose_optimizer`.
        groups: with `params` and `lr`.
        keep_fp32: parameters whose states stay fp32 and exact.
        settings: `betas`, `eps`, `weight_decay`.
    """
    if kind == "adamw":
        return torch.optim.AdamW(list(groups), fused=True, **settings)
    # One optimizer with an exception, not two: Trainer's schedule, clipping and checkpoints know one. bitsandbytes
    # looks the exception up by the parameter itself when it makes the states (optim/optimizer.py, get_config).
    GlobalOptimManager.get_instance().override_config(list(keep_fp32), "optim_bits", 32)
    optimizer: torch.optim.Optimizer = BitsAndBytesAdamW(list(groups), optim_bits=8, is_paged=True, **settings)
    return optimizer
