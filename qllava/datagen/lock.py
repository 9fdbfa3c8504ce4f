"""One writer a folder: an flock that goes with the process, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qllava.errors import UsageError
from qllava.lock import HeldError, hold

LOCK = ".gen-data.lock"


@contextmanager
def locked(folder: Path, writer: str = "gen-data") -> Iterator[None]:
    """Hold the folder for the block; makes it, and removes it again where it is still empty afterwards.

    `writer` is the command, as the error names it; two of different names do not exclude each other.

    Raises:
        UsageError: another process holds it.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with hold(folder / f".{writer}.lock"):
            yield
    except HeldError as error:
        who = f" ({error.owner})" if error.owner else ""
        raise UsageError(f"another {writer} is writing {folder}; wait for it, or choose another --out{who}") from None
    finally:
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
