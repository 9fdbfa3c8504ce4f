"""One writer a folder: an flock that goes with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qllava.errors import UsageError

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
    path = folder / f".{writer}.lock"
    descriptor = _take(path, writer)
    try:
        yield
    finally:
        # Removed while it is held: who opened it meanwhile sees that the name is gone and opens anew.
        path.unlink(missing_ok=True)
        os.close(descriptor)
        if made and not any(folder.iterdir()):
            folder.rmdir()


def _take(path: Path, writer: str) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise UsageError(
                f"another {writer} is writing {path.parent}; wait for it, or choose another --out"
            ) from None
        except FileNotFoundError:
            pass
        os.close(descriptor)
