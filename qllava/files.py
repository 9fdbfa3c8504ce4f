"""Files that are either whole or absent: written aside, fsynced, renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: readers see the old file or the new one."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    write_text(path, f"{text}\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: readers see the old file or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    fsync_directory(path.parent)


@contextlib.contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """A folder to fill that becomes `target` when the block ends without an error, and vanishes otherwise."""
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        for path in sorted(aside.rglob("*")):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        fsync_directory(aside)
        if target.exists():
            # Out of the way first: removing it in place would leave half of it where a kill comes in between.
            old = target.with_name(f".{target.name}.{os.getpid()}.old.tmp")
            target.rename(old)
            aside.rename(target)
            shutil.rmtree(old)
        else:
            aside.rename(target)
        fsync_directory(target.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def fsync_directory(folder: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Hex digest of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_hashes(folder: Path, *, leave_out: tuple[str, ...] = ()) -> dict[str, str]:
    """Digest of every file directly inside a folder, by name, sorted."""
    return {p.name: sha256(p) for p in sorted(folder.iterdir()) if p.is_file() and p.name not in leave_out}
