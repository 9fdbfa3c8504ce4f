"""The checkpoints of a run: sealed with hashes, verified before use, rotated.

`checkpoints/step-000500/` holds what the trainer wrote and `checkpoint.json`, the seal: the hash of every file, and
of itself. A folder with another number of files, another file or another bit is damaged.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qllava.errors import RunError
from qllava.files import folder_hashes, write_json

CHECKPOINTS = "checkpoints"
SEAL = "checkpoint.json"
_NAME = re.compile(r"step-(\d{6,})")


class DamagedError(RunError):
    """A checkpoint that is not as it was written; the text says what differs."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose seal is whole.

    Attributes:
        folder: where it is.
        step: optimizer steps done.
        files: sha256 of each file beside the seal.
        facts: what the trainer noted, e.g. `heldout_loss` (nats a token), `token_budget`, `rejected`.
    """

    folder: Path
    step: int
    files: dict[str, str]
    facts: dict[str, Any]

    @property
    def heldout_loss(self) -> float | None:
        """Mean nats a supervised token on held-out samples, where there were any."""
        value = self.facts.get("heldout_loss")
        return float(value) if value is not None else None


def checkpoint_name(step: int) -> str:
    """Folder name of a step's checkpoint."""
    return f"step-{step:06d}"


def checkpoint_folders(run_folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first; not verified."""
    folder = run_folder / CHECKPOINTS
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def seal(folder: Path, step: int, facts: Mapping[str, Any]) -> None:
    """Write the seal of a folder that is complete."""
    content: dict[str, Any] = {"step": step, "files": folder_hashes(folder), "facts": dict(facts)}
    write_json(folder / SEAL, content | {"sha256": _digest(content)})


def read_seal(folder: Path) -> Checkpoint:
    """What the seal says, after checking the seal itself; the files are not read.

    Raises:
        DamagedError: no seal, or not as it was written.
    """
    try:
        content = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        digest = content.pop("sha256")
        checkpoint = Checkpoint(folder, content["step"], content["files"], content["facts"])
    except FileNotFoundError:
        raise DamagedError(f"{SEAL} is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedError(f"{SEAL} cannot be read") from None
    if digest != _digest(content):
        raise DamagedError(f"{SEAL} differs from what was written")
    if folder.name != checkpoint_name(checkpoint.step):
        raise DamagedError(f"{SEAL} is that of step {checkpoint.step}")
    return checkpoint


def verify(folder: Path) -> Checkpoint:
    """The checkpoint in a folder, every file compared with the seal.

    Raises:
        DamagedError: a file is missing, differs, or does not belong there.
    """
    checkpoint = read_seal(folder)
    # By what is there, folders included: nothing may be read that was not sealed.
    names = {path.name for path in folder.iterdir()} - {SEAL}
    for name in sorted(checkpoint.files.keys() - names):
        raise DamagedError(f"{name} is missing")
    for name in sorted(names - checkpoint.files.keys()):
        raise DamagedError(f"{name} does not belong there")
    try:
        found = folder_hashes(folder, leave_out=(SEAL,))
    except OSError as error:  # a disk that is going
        raise DamagedError(f"{error.filename or folder} cannot be read ({error.strerror})") from None
    for name, expected in checkpoint.files.items():
        if found.get(name) != expected:
            raise DamagedError(f"{name} differs from what was written")
    return checkpoint


@dataclass(frozen=True)
class Settled:
    """What `settle` found: the newest valid checkpoint, and each damaged one with the reason and where it is now."""

    newest: Checkpoint | None
    damaged: list[tuple[Path, str, Path]]


def settle(run_folder: Path) -> Settled:
    """Put the checkpoints of a run in order before it goes on; the caller holds the run.

    Half-written ones of a killed process are removed. Damaged ones that are newer than the newest valid one are moved
    aside to `checkpoints/damaged-...`, not deleted: a person may still get something out of them.
    """
    for path in (*run_folder.glob(".*.tmp"), *(run_folder / CHECKPOINTS).glob(".*.tmp")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    damaged: list[tuple[Path, str, Path]] = []
    for path in reversed(checkpoint_folders(run_folder)):
        try:
            return Settled(verify(path), damaged)
        except DamagedError as error:
            damaged.append((path, str(error), _move_aside(path)))
    return Settled(None, damaged)


def rotate(run_folder: Path, keep: int) -> list[int]:
    """Remove all checkpoints but the newest `keep` and the best by held-out loss; returns the steps removed."""
    folders = checkpoint_folders(run_folder)
    best = best_checkpoint(run_folder)
    removed = []
    for folder in folders[:-keep]:
        if best is not None and folder == best.folder:
            continue
        # Renamed first: a kill in the middle leaves a leftover, not a checkpoint that lacks files.
        going = folder.with_name(f".{folder.name}.old.tmp")
        folder.rename(going)
        shutil.rmtree(going)
        removed.append(int(folder.name.removeprefix("step-")))
    return removed


def best_checkpoint(run_folder: Path) -> Checkpoint | None:
    """The checkpoint with the lowest held-out loss, the earlier of equals; None where none was measured."""
    measured = []
    for folder in checkpoint_folders(run_folder):
        try:
            checkpoint = read_seal(folder)
        except DamagedError:
            continue  # said when it matters: by `settle`
        if checkpoint.heldout_loss is not None and math.isfinite(checkpoint.heldout_loss):
            measured.append(checkpoint)
    return min(measured, key=lambda checkpoint: checkpoint.facts["heldout_loss"], default=None)


def _move_aside(path: Path) -> Path:
    target = path.with_name(f"damaged-{path.name}")
    number = 2
    while target.exists():
        target = path.with_name(f"damaged-{path.name}-{number}")
        number += 1
    return path.rename(target)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
