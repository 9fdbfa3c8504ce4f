"""The live view of a training run: progress, ETA and the last figures; plain lines where there is no terminal."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.status import Status

from qllava_cli.console import say

# Without a terminal (a log file, CI), one line in this many seconds.
PLAIN_EVERY = 15.0


class LiveView:
    """Implements `qllava.train.callbacks.TrainView` with rich."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._progress: Progress | None = None
        self._total = 0
        self._last_plain = 0.0

    def note(self, name: str, value: object, why: str = "", flag: str = "") -> None:
        """One line above the live part."""
        say(name, value, why, flag)

    def status(self, text: str) -> None:
        """A spinner, until the next call of anything here."""
        self._end_status()
        if self._console.is_terminal:
            self._status = self._console.status(text)
            self._status.start()

    def start(self, *, steps: int, done: int) -> None:
        """Show the bar."""
        self._end_status()
        self._total = steps
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                console=self._console,
                expand=True,
            )
            self._progress.add_task("steps", total=steps, completed=done, figures="")
            self._progress.start()

    def step(self, figures: dict[str, float]) -> None:
        """Update bar or print a line."""
        words = (
            f"loss {figures['loss']:.3f}  acc {figures['token_accuracy']:.0%}  "
            f"{figures['tokens_per_second']:,.0f} tok/s  {figures['memory_gib']:.1f} GiB"
        )
        step = int(figures["step"])
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=step, figures=words)
            return
        now = time.monotonic()
        if now - self._last_plain >= PLAIN_EVERY or step == self._total:
            self._last_plain = now
            self._console.print(f"step {step}/{self._total}  {words}", soft_wrap=True)

    def stop(self) -> None:
        """Leave the bar as it stands."""
        self._end_status()
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _end_status(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
