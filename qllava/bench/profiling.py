"""Where a step's time goes, by kind of operation, from torch's own profiler."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

KINDS = ("NF4 dequantisation", "GEMM", "attention", "elementwise", "head", "optimizer")
_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn", "aten::_addmm_activation")
_ATTENTION = ("attention", "flash", "sdpa")
_LOSS = ("log_softmax", "nll_loss", "aten::argmax", "cross_entropy")


class ProfileStep(TrainerCallback):
    """Profiles step number `at_step` (from 0) and sums its time by kind; `vocabulary` tells the head's products."""

    def __init__(self, vocabulary: int, *, at_step: int) -> None:
        self._vocabulary = vocabulary
        self._at_step = at_step
        self._profile: Any = None
        self.shares: dict[str, float] = {}

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start, if this is the step."""
        del args, control, kwargs
        if state.global_step == self._at_step:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities, record_shapes=True)
            self._profile.__enter__()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop and sum up."""
        del args, state, control, kwargs
        if self._profile is None:
            return
        self._profile.__exit__(None, None, None)
        averages = self._profile.key_averages(group_by_input_shape=True)
        self._profile = None
        self.shares = time_shares(averages, self._vocabulary, cuda=torch.cuda.is_available())


def time_shares(averages: Iterable[Any], vocabulary: int, *, cuda: bool) -> dict[str, float]:
    """Share (0-1) of every kind of operation in the profiled time; each operation's own time, its children's not.

    Args:
        averages: `key_averages(group_by_input_shape=True)` of a profile.
        vocabulary: rows of the head: a product or loss with a side of this size is the head's.
        cuda: sum the time of the kernels an operation launched instead of the processor's.
    """
    totals = dict.fromkeys(KINDS, 0.0)
    for entry in averages:
        # On CUDA kernels are listed beside the operations that launched them: counting both would double them.
        own = entry.self_device_time_total if cuda else entry.self_cpu_time_total
        if cuda and not _is_operation(entry.key):
            continue
        totals[kind_of(entry.key, entry.input_shapes, vocabulary)] += float(own)
    whole = sum(totals.values()) or 1.0
    return {kind: time / whole for kind, time in totals.items()}


def kind_of(name: str, shapes: list[Any], vocabulary: int) -> str:
    """The kind of one operation by its name and the shapes of its inputs."""
    lowered = name.lower()
    if "4bit" in lowered or "blockwise" in lowered:
        return "NF4 dequantisation"
    if any(part in lowered for part in ("optimizer", "adam")):
        return "optimizer"
    of_head = any(vocabulary in shape for shape in shapes if isinstance(shape, list | tuple))
    if of_head or any(part in lowered for part in _LOSS):
        return "head"
    if any(part in lowered for part in _ATTENTION):
        return "attention"
    if name.startswith(_PRODUCTS):
        return "GEMM"
    return "elementwise"


def _is_operation(name: str) -> bool:
    return "::" in name and not name.startswith(("cuda", "void", "std::", "at::"))
