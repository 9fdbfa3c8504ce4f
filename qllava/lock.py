"""One process at a time on a folder: a lock file that says who holds it and goes with the process, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    """Who holds a lock, or held it last: process id, machine, account, and since when (UTC, ISO 8601)."""

    pid: int
    host: str
    user: str
    since: str

    def __str__(self) -> str:
        """For error messages."""
        return f"process {self.pid} of {self.user} on {self.host}, since {self.since}"


class HeldError(Exception):
    """Another process holds the lock; `owner` is None where it has not yet said who it is."""

    def __init__(self, path: Path, owner: Owner | None) -> None:
        super().__init__(f"{path} is held by {owner or 'another process'}")
        self.owner = owner


@contextlib.contextmanager
def hold(path: Path) -> Iterator[Owner | None]:
    """Hold the lock file `path` for the block; its folder must exist.

    The lock is an flock: the kernel drops it when the process ends, so a file that was left behind holds nobody up.

    Yields:
        Who left the file behind without giving the lock back (killed, or the machine went down); else None.

    Raises:
        HeldError: another process holds it.
    """
    descriptor = _take(path)
    holding = [descriptor]

    def forget() -> None:
        # A forked data worker would share the lock and hold it for seconds after its parent was killed.
        for inherited in holding:
            os.close(inherited)

    os.register_at_fork(after_in_child=forget)
    try:
        left_behind = _read_owner(descriptor)
        _write_owner(descriptor)
        yield left_behind
    finally:
        # Removed while it is held: who opened it meanwhile sees that the name is gone and opens anew.
        path.unlink(missing_ok=True)
        holding.clear()
        os.close(descriptor)


def _take(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BlockingIOError:
            owner = _read_owner(descriptor)
            os.close(descriptor)
            raise HeldError(path, owner) from None
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _read_owner(descriptor: int) -> Owner | None:
    try:
        return Owner(**json.loads(os.pread(descriptor, 4096, 0)))
    except (ValueError, TypeError):
        return None


def _write_owner(descriptor: int) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    owner = Owner(os.getpid(), socket.gethostname(), _user(), now)
    # On a full disk the lock holds all the same, it just does not say who.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(owner)).encode(), 0)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in containers
        return str(os.getuid())
