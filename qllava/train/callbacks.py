"""What happens around the steps: figures written and shown, signals obeyed."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qllava.files import write_text

METRICS_FILE = "metrics.jsonl"


class TrainView(Protocol):
    """Where a run shows itself; the command line's is a live rich view."""

    def note(self, name: str, value: object, why: str = "", flag: str = "") -> None:
        """One setting that was chosen, or one fact."""

    def status(self, text: str) -> None:
        """What is being done now, e.g. loading."""

    def start(self, *, steps: int, done: int) -> None:
        """Training begins at step `done`."""

    def step(self, figures: dict[str, float]) -> None:
        """One optimizer step is done."""

    def stop(self) -> None:
        """Training has ended."""


class Figures(TrainerCallback):
    """Writes each step to `metrics.jsonl` and shows it."""

    def __init__(self, run_folder: Path, view: TrainView) -> None:
        self._path = run_folder / METRICS_FILE
        self._view = view
        self._last = time.perf_counter()
        self._waiting: list[str] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop rows that a killed run wrote after its last checkpoint, and start the view."""
        del args, control, kwargs
        keep_rows(self._path, last_step=state.global_step)
        self._view.start(steps=state.max_steps, done=state.global_step)
        self._last = time.perf_counter()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """One row a step; the summary that Trainer logs at the end has no `loss` and is left out."""
        del args, control, kwargs
        if not logs or "loss" not in logs:
            return
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        row = {
            "step": state.global_step,
            "loss": logs["loss"],
            "token_accuracy": logs["token_accuracy"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm", 0.0),
            "samples": logs["samples"],
            "tokens": logs["tokens"],
            "supervised_tokens": logs["supervised_tokens"],
            "packs": logs["packs"],
            **packing_shares(logs),
            "seconds": elapsed,
            "tokens_per_second": logs["tokens"] / elapsed,
            "memory_gib": peak_memory() / 2**30,
        }
        self._write(json.dumps(row) + "\n")
        self._view.step(row)

    def _write(self, line: str) -> None:
        """Append to the file; on a full disk the lines wait for the next step."""
        size = self._path.stat().st_size if self._path.exists() else 0
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write("".join(self._waiting) + line)
        except OSError as error:
            if not self._waiting:
                self._view.note("NOT WRITTEN", self._path, f"{error.strerror}; the figures wait until there is room")
            self._waiting.append(line)
            if self._path.exists():
                os.truncate(self._path, size)  # half a line would spoil the next one
        else:
            self._waiting.clear()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the view."""
        del args, state, control, kwargs
        self._view.stop()


class StopOnSignal(TrainerCallback):
    """Ctrl-C or SIGTERM: finish the step, save, stop. A second one stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Take over both signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)

    def remove(self) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask Trainer to save and stop."""
        del args, kwargs
        self._ask(state, control)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The same for a signal that came after `on_step_end`; logging is the last event before saving."""
        del args, kwargs
        self._ask(state, control)

    def _ask(self, state: TrainerState, control: TrainerControl) -> None:
        if self.received is not None and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True


def keep_rows(path: Path, *, last_step: int) -> None:
    """Rewrite a metrics file without the steps after `last_step`: they will be trained again."""
    if not path.is_file():
        return
    rows = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= last_step]
    write_text(path, "".join(f"{row}\n" for row in rows))


def packing_shares(figures: Mapping[str, float]) -> dict[str, float]:
    """How well `tokens`, `tokens_alone`, `packs` and `token_budget` of a step, or summed over steps, are packed.

    Returns:
        `tokens_alone` and `token_budget` as given; `shared`: the part of the tokens, 0-1, that shared prefixes save;
        `fill`: the part of the packs' budget that is used, 1 where there is no budget.
    """
    alone, budget = figures["tokens_alone"], figures["token_budget"]
    room = figures["packs"] * budget
    return {
        "tokens_alone": alone,
        "token_budget": budget,
        "shared": 1 - figures["tokens"] / alone if alone else 0.0,
        # A sample longer than the budget is a pack of its own.
        "fill": min(1.0, figures["tokens"] / room) if room else 1.0,
    }


def packing_summary(metrics: Path) -> dict[str, float]:
    """`shared` and `fill` over all steps of a run, by its metrics file; empty where no step is recorded."""
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()] if metrics.is_file() else []
    tokens, alone = (sum(row.get(name, 0) for row in rows) for name in ("tokens", "tokens_alone"))
    if not alone:
        return {}
    # The budget may have shrunk on the way, so the room is summed step by step.
    room = sum(row["packs"] * row["token_budget"] for row in rows if "token_budget" in row)
    shares = packing_shares({"tokens": tokens, "tokens_alone": alone, "packs": 1, "token_budget": room})
    return {name: round(shares[name], 4) for name in ("shared", "fill")}


def peak_memory() -> int:
    """Bytes: the card's peak, or this process's."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        # Half a line of a killed run.
        return 2**63
