"""The four commands of the demo, exactly as a person would type them, and which of them are done."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qllava.checkpoint.manifest import newest_finished
from qllava.demo.workspace import IMAGE, IMAGES

RUNS = "runs"
CHAT_QUESTIONS = ("What can you see in the picture?", "What color is the circle?")


@dataclass(frozen=True)
class Step:
    """One command line. `done` looks into the workspace; `stdin` is piped in; `result` is what it leaves there."""

    arguments: tuple[str, ...]
    result: str
    done: Callable[[Path], bool]
    stdin: str | None = None

    @property
    def line(self) -> str:
        """As it is typed."""
        return shlex.join(("qllava", *self.arguments))


def demo_steps() -> tuple[Step, ...]:
    """The four commands, in order.

    A finished one is not run again: a finished finetune run stands for all before it.
    """
    return (
        Step(("gen-data", "--images", f"{IMAGES}/"), "data/card.json", _has_data),
        Step(("train", "--stage", "1"), "a finished align run", _aligned),
        Step(("train", "--stage", "2", "--lora-r", "64"), "a finished finetune run", _finetuned),
        Step(("chat", IMAGE), "", lambda folder: False, stdin="".join(f"{question}\n" for question in CHAT_QUESTIONS)),
    )


def _has_data(folder: Path) -> bool:
    return (folder / "data" / "card.json").is_file()


def _aligned(folder: Path) -> bool:
    return _finetuned(folder) or newest_finished(folder / RUNS, "align") is not None


def _finetuned(folder: Path) -> bool:
    return newest_finished(folder / RUNS, "finetune") is not None
