"""Pictures out of archives into one folder: no member leaves it, none is half written, none is written twice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

from qllava.datagen.sources.pictures import normal
from qllava.errors import DataError

_JUNK = "__MACOSX"


def member_path(archive: Path, name: str) -> str | None:
    """A member's path in the folder, `/` between its parts; None for the hidden files that systems put in archives.

    Raises:
        DataError: the path is absolute or leads out of the folder.
    """
    plain = normal(name)
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    if plain.startswith("/") or ".." in parts or (parts and ":" in parts[0]) or "\0" in plain or not parts:
        raise DataError(f"{archive}: member {name!r} would be written outside the folder; do not use this archive")
    return None if any(part.startswith(".") or part == _JUNK for part in parts) else "/".join(parts)


class Unpacker:
    """Writes members below `folder`. A file with the size and the time of its member is taken for written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written = 0
        self._made: set[str] = set()

    def put(self, path: str, size: int, modified: int, content: Callable[[], IO[bytes]], archive: Path) -> None:
        """Write one member at `path` (as `member_path` gives it), unless it is there.

        Args:
            path: where, relative to the folder.
            size: of the content, in bytes.
            modified: the member's time, in seconds; the file gets it.
            content: opens the content; only called when it is needed.
            archive: for messages.

        Raises:
            DataError: the path leads through a link out of the folder, or the content has another size.
        """
        target = self.folder / path
        self._make(target.parent, archive)
        try:
            there = target.stat(follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            if there.st_size == size and int(there.st_mtime) == modified:
                return
        aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with content() as source, aside.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            if aside.stat().st_size != size:
                raise DataError(f"{archive}: member {path} is cut off; download or pack the archive again")
            os.utime(aside, (modified, modified))
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)
        self.written += 1

    def _make(self, folder: Path, archive: Path) -> None:
        if str(folder) in self._made:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if not folder.resolve().is_relative_to(self.folder.resolve()):
            raise DataError(f"{archive}: {folder} is a link out of {self.folder}; remove it, or choose another folder")
        self._made.add(str(folder))
