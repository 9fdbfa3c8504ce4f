"""When the data workers stop delivering: which sample it is, found by trying each of the step's in a process."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qllava.data.steps import StepBuilder, StepPlan
from qllava.errors import DataError, QllavaError, RunError

# Seconds without a batch from any worker: a whole global batch of large pictures takes a tenth of it.
STALLED_AFTER = 300.0
# Seconds one sample may take when it is tried alone.
SAMPLE_PATIENCE = 20.0


def explain_worker_failure(
    error: RuntimeError, builder: StepBuilder, steps: Sequence[int], patience: float = SAMPLE_PATIENCE
) -> QllavaError | None:
    """What a DataLoader's error means, or None for any other error.

    Args:
        error: as raised by the training loop.
        builder: of the steps.
        steps: those that may have been waited for.
        patience: seconds for one sample alone.
    """
    said = str(error)
    if "DataLoader timed out" in said:
        found = find_stalled(builder, steps, patience)
        where = f"sample {found[0]} ({found[1]})" if found else f"no single sample of step {steps[0] + 1} is slow alone"
        return DataError(
            f"the data workers delivered nothing for minutes: {where}; check that file and the disk it is on, then "
            "repeat the command"
        )
    if "DataLoader worker" in said and ("killed by signal" in said or "exited unexpectedly" in said):
        return RunError(
            "a data worker was ended from outside, most likely for want of memory; repeat the command with fewer: "
            "--set data.workers=1"
        )
    return None


def find_stalled(builder: StepBuilder, steps: Sequence[int], patience: float) -> tuple[str, str] | None:
    """(id, picture or text) of the first sample that takes longer than `patience` seconds alone, or None."""
    # Forked, not spawned: it is the same builder, and the machine is in no state to import everything again.
    context = multiprocessing.get_context("fork")
    for index in (i for step in steps if step < len(builder.plan) for i in builder.plan.members(step)):
        alone = replace(builder, plan=StepPlan(np.asarray([index]), np.asarray([0, 1])))
        process = context.Process(target=_build_quietly, args=(alone,), daemon=True)
        process.start()
        process.join(patience)
        if process.is_alive():
            process.kill()
            sample = builder.conversations[index]
            return sample.id, ", ".join(sample.images) or "text only"
    return None


def _build_quietly(builder: StepBuilder) -> None:
    with contextlib.suppress(Exception):  # only its duration is of interest here
        builder.build(0)
