"""Times the counted steps of any Trainer, and reads the peak memory."""

from __future__ import annotations

import resource
import time
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StepClock(TrainerCallback):
    """Notes when every step ended and what it logged. The first step warms up: callers leave it out."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.cpu_ends: list[float] = []
        self.peaks: list[int] = []
        self.logs: list[dict[str, float]] = []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """One optimizer step is done, on the device too."""
        del state, control, kwargs
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        self.cpu_ends.append(time.process_time())
        self.peaks.append(peak_bytes(args.device.type))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the row of a step; the summary at the end has no loss."""
        del args, state, control, kwargs
        if logs and "loss" in logs:
            self.logs.append(dict(logs))


def peak_bytes(device: str) -> int:
    """The card's peak since it was last reset, or this process's."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
