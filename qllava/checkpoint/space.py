"""Room on the disk: asked for before a checkpoint is written, so that a full disk is news and not an accident."""

from __future__ import annotations

import shutil
from pathlib import Path

# A tenth more than the last one took, and something for log and metrics.
_SLACK = 2**20


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def free_bytes(folder: Path) -> int:
    """Bytes that can still be written where `folder` is, or will be."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def shortage(folder: Path, size: int) -> int:
    """Bytes that are lacking to write `size` more bytes safely in `folder`; 0 where there is room."""
    return max(0, size + size // 10 + _SLACK - free_bytes(folder))


def human_bytes(size: int) -> str:
    """1.2 GiB, 340 MiB, 12 KiB."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{-(-size // 1024)} KiB"
