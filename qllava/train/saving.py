"""Saving while training: looks at the disk first, keeps the best, and turns a failure into news instead of an end."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from qllava.checkpoint.saved import (
    CHECKPOINTS,
    best_checkpoint,
    checkpoint_folders,
    checkpoint_name,
    rotate,
    seal,
    settle,
)
from qllava.checkpoint.space import folder_bytes, free_bytes, human_bytes, shortage
from qllava.errors import RunError
from qllava.files import atomic_directory
from qllava.train.callbacks import TrainView

# What a full or failing disk raises: Python, safetensors, and torch.save's zip writer (a plain RuntimeError).
WRITE_ERRORS = (OSError, SafetensorError, RuntimeError)
# How Rust's writers (safetensors, tokenizers) name what the system said.
_OS_ERROR = re.compile(r"os error (\d+)")
# Weights and AdamW's two moments, fp32.
_BYTES_A_PARAMETER = 12


class Saver:
    """Writes the checkpoints of one run.

    Args:
        run_folder: the run.
        keep: how many of the newest stay; the best by held-out loss stays besides.
        every, total: optimizer steps between saves, and in all.
        trained: parameters that learn; what the first checkpoint will take follows from it.
        view: where news go.
        heldout_loss: mean loss on held-out samples with the weights as they are, where there are any.
        saved: called with the step of each checkpoint that is on the disk.
    """

    def __init__(
        self,
        run_folder: Path,
        *,
        keep: int,
        every: int,
        total: int,
        trained: int,
        view: TrainView,
        heldout_loss: Callable[[], float] | None,
        saved: Callable[[int], None],
    ) -> None:
        self.failure: str | None = None
        self._run_folder = run_folder
        self._keep = keep
        self._every = every
        self._total = total
        self._size = trained * _BYTES_A_PARAMETER
        self._view = view
        self._heldout_loss = heldout_loss
        self._saved = saved

    def warn_if_tight(self) -> None:
        """Before the first step: say so where the disk will not hold what the run is going to keep."""
        newest = checkpoint_folders(self._run_folder)[-1:]
        size = folder_bytes(newest[0]) if newest else self._size
        # The ones that stay, the best, the one being written, less those that are there.
        needed = size * max(0, self._keep + 2 - len(checkpoint_folders(self._run_folder)))
        if lacking := shortage(self._run_folder, needed):
            self._view.note(
                "LOW DISK",
                f"{human_bytes(free_bytes(self._run_folder))} free",
                f"this run's checkpoints need {human_bytes(lacking)} more; free space, or keep fewer",
                "--keep",
            )

    def save(self, step: int, fill: Callable[[Path], None], facts: Mapping[str, Any]) -> bool:
        """Write the checkpoint of a step; False, said and kept in `failure`, where the disk did not take it.

        Args:
            step: optimizer steps done.
            fill: writes the files into the folder it is given.
            facts: noted in the seal.
        """
        heldout = self._heldout_loss() if self._heldout_loss is not None else None
        noted = dict(facts) if heldout is None else {**facts, "heldout_loss": heldout}
        try:
            self._write(step, fill, noted)
        except WRITE_ERRORS as error:
            self.failure = self._tell(step, error)
            return False
        self.failure = None
        if heldout is not None:
            best = best_checkpoint(self._run_folder)
            standing = "the best so far"
            if best is not None and best.step != step:
                standing = f"best {best.heldout_loss:.3f} at step {best.step}"
            self._view.note("held-out loss", f"{heldout:.3f} at step {step}", standing)
        return True

    def last_step(self) -> int:
        """Step of the newest checkpoint, 0 without one."""
        folders = checkpoint_folders(self._run_folder)
        return int(folders[-1].name.removeprefix("step-")) if folders else 0

    def _write(self, step: int, fill: Callable[[Path], None], facts: Mapping[str, Any]) -> None:
        folder = self._run_folder / CHECKPOINTS
        before = checkpoint_folders(self._run_folder)
        size = folder_bytes(before[-1]) if before else self._size
        if lacking := shortage(folder, size):
            raise OSError(f"the disk is too full for {human_bytes(size)}: {human_bytes(lacking)} more are needed")
        with atomic_directory(folder / checkpoint_name(step)) as aside:
            fill(aside)
            seal(aside, step, facts)
        rotate(self._run_folder, self._keep)
        self._saved(step)

    def _tell(self, step: int, error: Exception) -> str:
        reason = _first_line(error)
        last = self.last_step()
        if last == step:  # it is there; what failed came after
            self._view.note("checkpoint", f"step {step} is saved", f"but tidying up failed: {reason}")
            return reason
        kept = f"step {last} is kept" if last else "there is none yet"
        upcoming = min((step // self._every + 1) * self._every, self._total)
        after = f"training goes on, next try at step {upcoming}" if upcoming > step else "this was the last step"
        self._view.note("NOT SAVED", f"checkpoint of step {step}", f"{reason}; {kept}; {after}; free some space")
        return reason


def put_in_order(run_folder: Path, view: TrainView) -> None:
    """Leave a run with its newest valid checkpoint on top, and say what was damaged."""
    settled = settle(run_folder)
    for path, reason, aside in settled.damaged:
        view.note("DAMAGED", path, f"{reason}; moved to {aside.name}")
    if settled.damaged:
        step = settled.newest.step if settled.newest else 0
        view.note("continuing from", f"step {step}", "the newest checkpoint that is whole" if step else "the start")


@contextmanager
def writing_results(run_folder: Path, command: str) -> Iterator[None]:
    """The end of a run: a disk that is full loses nothing, for the last checkpoint is there.

    Raises:
        RunError: instead of an error of the disk.
    """
    try:
        yield
    except Exception as error:
        # The tokenizer's writer raises a bare Exception with the system's words.
        if not isinstance(error, OSError | SafetensorError) and not _OS_ERROR.search(str(error)):
            raise
        raise RunError(
            f"{run_folder} is trained, but its results could not be written ({_first_line(error)}); free some space "
            f"and repeat `{command}`: it goes on from the last checkpoint"
        ) from error


def _first_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if number := _OS_ERROR.search(str(error)):
        return os.strerror(int(number[1]))
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
