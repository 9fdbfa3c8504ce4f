"""Where words go: everything for people to stderr, results alone to stdout, nothing cut by a narrow terminal."""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@cache
def console() -> Console:
    """The rich console on stderr that every command shares (live views need exactly one)."""
    from rich.console import Console  # noqa: PLC0415 - 40 ms that `--help` does not need

    return Console(stderr=True, highlight=False)


def say(name: str, value: object, why: str = "", flag: str = "") -> None:
    """Print one setting as the contract writes it: `name value (why; --flag)`."""
    from rich.text import Text  # noqa: PLC0415

    line = Text()
    line.append(f"{name} ", style="dim")
    line.append(one_line(str(value)), style="bold")
    reason = "; ".join(part for part in (why, flag) if part)
    if reason:
        line.append(f" ({one_line(reason)})", style="dim")
    console().print(line, soft_wrap=True)


def note(message: str) -> None:
    """Print one plain line on stderr; brackets are text, not markup."""
    console().print(one_line(message), markup=False, soft_wrap=True)


def fail(message: str) -> None:
    """Print `error: ...` as one unwrapped line, so that the fix at its end survives any terminal width."""
    from rich.text import Text  # noqa: PLC0415

    console().print(Text.assemble(("error: ", "bold red"), one_line(message)), soft_wrap=True)


def result(text: str) -> None:
    """Write a result to stdout, where a pipe finds it alone."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def one_line(text: str) -> str:
    """`text` with every run of white space as one space, and without characters that steer a terminal."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())
