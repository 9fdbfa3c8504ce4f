"""The run folder of a request, held by this process alone while it trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from qllava.checkpoint.manifest import Run
from qllava.errors import RunError
from qllava.lock import HeldError, Owner, hold
from qllava.train.request import TrainRequest, claim_run


@dataclass(frozen=True)
class Claim:
    """A run folder, the unfinished run that is continued there, and who left it without finishing, if anybody."""

    folder: Path
    unfinished: Run | None
    left_by: Owner | None


def lock_path(run_folder: Path) -> Path:
    """The lock of a run, beside its folder: it is taken before the folder is there."""
    return run_folder.with_name(f".{run_folder.name}.lock")


@contextmanager
def claimed(request: TrainRequest) -> Iterator[Claim]:
    """Find the folder that answers a request and hold it for the block. Reading a run needs no lock.

    Raises:
        RunError: another process trains there.
    """
    made = not request.runs.exists()
    request.runs.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            while True:
                folder, _ = claim_run(request)
                left_by = _hold(stack, folder)
                # Another process may have finished it between the look and the lock.
                again, unfinished = claim_run(request)
                if again == folder or (request.new and not folder.exists()):
                    break
                stack.close()
            yield Claim(folder, unfinished, left_by)
    finally:
        if made and not any(request.runs.iterdir()):
            request.runs.rmdir()


def _hold(stack: ExitStack, folder: Path) -> Owner | None:
    try:
        return stack.enter_context(hold(lock_path(folder)))
    except HeldError as error:
        raise RunError(
            f"{folder} is being trained by {error.owner or 'another process'}; wait for it, stop it with Ctrl-C there, "
            "or start another run with --new"
        ) from None
