"""Writing a data folder: every file whole or not at all, the same bytes from the same input."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from qllava.files import fsync_directory, sha256


class ListFile:
    """A JSON file that grows entry by entry in a temporary neighbour; memory does not grow with it.

    `as_lines` writes one JSON value a line; otherwise the file is one JSON list, one entry a line.
    """

    def __init__(self, path: Path, *, as_lines: bool) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.partial")
        self.entries = 0
        self._as_lines = as_lines
        self._file: IO[str] | None = self.temporary.open("w", encoding="utf-8", errors="replace", newline="\n")

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write one entry."""
        if self._file is None:
            raise ValueError(f"{self.path} is closed")
        if not self._as_lines:
            self._file.write(",\n" if self.entries else "[\n")
        self._file.write(json.dumps(entry, ensure_ascii=False))
        if self._as_lines:
            self._file.write("\n")
        self.entries += 1

    def finish(self) -> None:
        """Complete the temporary file and put it on the disk; nothing is renamed yet."""
        if self._file is None:
            return
        if not self._as_lines:
            self._file.write("\n]\n" if self.entries else "[]\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None

    def discard(self) -> None:
        """Close and remove the temporary file, if it is there."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self.temporary.unlink(missing_ok=True)


class Folder:
    """The files of one data folder, written aside and renamed together when the block ends without an error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: list[ListFile] = []
        self._texts: list[tuple[Path, Path]] = []
        self._made = False

    def __enter__(self) -> Folder:
        self._made = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.discard()
        for temporary, _ in self._texts:
            temporary.unlink(missing_ok=True)
        if kind is not None and self._made and not any(self.path.iterdir()):
            self.path.rmdir()

    def list_file(self, name: str) -> ListFile:
        """Open `name` for entries: a JSON list, or one value a line when it ends with .jsonl."""
        file = ListFile(self.path / name, as_lines=name.endswith(".jsonl"))
        self._files.append(file)
        return file

    def text(self, name: str, content: str) -> str:
        """Write a small text file aside; returns its sha256 (hex)."""
        path = self.path / name
        temporary = path.with_name(f".{name}.partial")
        self._texts.append((temporary, path))
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return sha256(temporary)

    def finish(self) -> dict[str, str]:
        """Complete the entry files and return their sha256 (hex) by name, still unrenamed."""
        for file in self._files:
            file.finish()
        return {file.path.name: sha256(file.temporary) for file in self._files}

    def commit(self) -> None:
        """Rename everything into place, the texts last and in the order in which they were written."""
        for file in self._files:
            file.finish()
            file.temporary.replace(file.path)
        for temporary, path in self._texts:
            temporary.replace(path)
        fsync_directory(self.path)
