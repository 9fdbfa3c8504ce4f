"""`responses.jsonl`: every answer that was paid for, on the disk before anything else is done with it.

The first line names the file; each other line is one answer with its key. Answers that arrive together share one
fsync. A line that a crash left half written is cut off when the file is opened again.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from qllava.datagen.money import Usage, usage_of
from qllava.errors import DataError, UsageError
from qllava.files import fsync_directory

RESPONSES = "responses.jsonl"
_HEADER_LINE = json.dumps({"journal": "qllava gen-data responses", "version": 1}).encode() + b"\n"


class Journal:
    """The answers of one data folder by key; holds 16 bytes and an offset for each in memory, not the answers.

    `recovered` is the number of bytes that were cut off because a crash had left them unfinished; `paid` the usage of
    all answers that were there when it was opened, by (teacher, model).
    """

    def __init__(self, path: Path, header_line: bytes = _HEADER_LINE) -> None:
        """Name the file; `header_line` is its first line, whole, which tells it from files of another use."""
        self.path = path
        self._header_line = header_line
        self.recovered = 0
        self.paid: dict[tuple[str, str], Usage] = {}
        self._at: dict[bytes, int] = {}
        self._size = 0
        self._descriptor = -1
        self._waiting: list[tuple[bytes, bytes, asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None

    def __enter__(self) -> Journal:
        """Open for reading and writing.

        Raises:
            UsageError: the file is of another teacher.
            DataError: a damaged line with good ones after it.
        """
        new = not self.path.exists()
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._index()
            size = os.fstat(self._descriptor).st_size
            if size > self._size:
                self.recovered = size - self._size
                os.ftruncate(self._descriptor, self._size)
            if not self._size:
                self._write(self._header_line)
            if new:
                fsync_directory(self.path.parent)
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    @classmethod
    def peek(cls, path: Path, header_line: bytes = _HEADER_LINE) -> Journal:
        """The keys of a file as they are, to be asked with `in` alone: nothing is repaired, locked or kept open."""
        journal = cls(path, header_line)
        journal._index()
        return journal

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._at

    def read(self, key: str) -> dict[str, Any] | None:
        """The record of one key, or None."""
        offset = self._at.get(bytes.fromhex(key))
        if offset is None:
            return None
        pieces: list[bytes] = []
        while True:
            piece = os.pread(self._descriptor, 1 << 14, offset)
            end = piece.find(b"\n")
            pieces.append(piece if end < 0 else piece[:end])
            if end >= 0 or not piece:
                break
            offset += len(piece)
        record = _record(b"".join(pieces))
        if record is None:
            raise DataError(f"{self.path} changed while it was read; let nothing else write it")
        return record

    async def append(self, record: Mapping[str, Any]) -> None:
        """Put one record on the disk; returns when it is there.

        Raises:
            OSError: it is not: the disk is full, for example.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((bytes.fromhex(record["key"]), _line(record), done))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        await done

    def extend(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Put several records on the disk at once; returns when they are there.

        Raises:
            OSError: they are not.
        """
        lines = [(bytes.fromhex(record["key"]), _line(record)) for record in records]
        self._write(b"".join(line for _, line in lines))
        self._remember(lines)

    async def _flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._write, b"".join(line for _, line, _ in batch))
            except OSError as error:
                for _, _, done in batch:
                    if not done.cancelled():
                        done.set_exception(error)
                continue
            self._remember([(key, line) for key, line, _ in batch])
            for _, _, done in batch:
                if not done.cancelled():
                    done.set_result(None)

    def _write(self, content: bytes) -> None:
        """All of `content` at the end and fsynced, or nothing of it."""
        try:
            written = 0
            while written < len(content):
                written += os.pwrite(self._descriptor, content[written:], self._size + written)
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        if not self._size:
            self._size = len(content)

    def _remember(self, lines: Iterable[tuple[bytes, bytes]]) -> None:
        for key, line in lines:
            self._at.setdefault(key, self._size)
            self._size += len(line)

    def _index(self) -> None:
        """Find the good lines; `_size` becomes the end of the last one before any damage."""
        damaged = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    self._check_header(line)
                    self._size = len(line) if line == self._header_line else 0
                    continue
                record = _record(line) if line.endswith(b"\n") else None
                if record is None:
                    damaged = damaged or number
                elif damaged:
                    raise DataError(
                        f"{self.path}, line {damaged} is damaged and good lines follow; remove that line by hand"
                    )
                else:
                    self._at.setdefault(bytes.fromhex(record["key"]), self._size)
                    self._size += len(line)
                    who = (str(record.get("teacher")), str(record.get("model")))
                    self.paid[who] = self.paid.get(who, Usage()) + usage_of(record["response"])

    def _check_header(self, line: bytes) -> None:
        if line != self._header_line and not self._header_line.startswith(line):
            wanted = "of a language-model teacher" if self._header_line == _HEADER_LINE else "of this use"
            raise UsageError(f"{self.path} is not {wanted}; choose another --out or move the folder away")


def is_journal(path: Path) -> bool:
    """Whether a file holds paid answers (or the beginning of such a file)."""
    try:
        with path.open("rb") as file:
            return _HEADER_LINE.startswith(file.readline(len(_HEADER_LINE)))
    except OSError:
        return False


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        good = isinstance(record, dict) and len(bytes.fromhex(record["key"])) > 0
        good = good and isinstance(record["response"], dict)
    except (ValueError, TypeError, KeyError):
        return None
    return record if good else None
