"""Where the rows of a JSON file lie: byte spans, found with one window of the file in memory.

The bytes are read as Latin-1, one character each, so that places in the text are places in the file; JSON's own signs
are ASCII, so its structure reads the same.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from qllava.errors import DataError

MOST_ROW_BYTES = 1 << 26
"""Bytes of a row at most, 64 MiB: what does not end before that is broken, not long."""
_WINDOW = 1 << 22
_BOM = codecs.BOM_UTF8
_SPACE = re.compile(r"[ \t\r\n]*")
# The longest piece of JSON that reads as wrong when it is cut: "-Infinity", "\\uD83D\\uDE00".
_CUT = 16
_COCO = "{path} holds COCO annotations, not conversations; make some with `qllava gen-data --images FOLDER`"

Span = tuple[int, int]


def line_spans(path: Path) -> Iterator[Span]:
    """[start, stop) of each line of a JSONL file that is not blank.

    Raises:
        DataError: a line is longer than a row may be.
    """
    with path.open("rb") as file:
        start = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
        file.seek(start)
        number = 0
        while line := file.readline(MOST_ROW_BYTES + 1):
            number += 1
            if len(line) > MOST_ROW_BYTES:
                raise DataError(f"{path}, line {number} has more than {MOST_ROW_BYTES:,} bytes; is it JSONL?")
            if line.strip():
                yield start, start + len(line.rstrip(b"\r\n"))
            start += len(line)


def list_spans(path: Path) -> Iterator[tuple[Span, object]]:
    """[start, stop) of each element of a JSON list, and the element, its texts one character a byte.

    Raises:
        DataError: no JSON list, or one that is broken; says in which line.
    """
    decoder = json.JSONDecoder()
    with path.open("rb") as file:
        window = _Window(file)
        if window.next() != "[":
            raise DataError(_not_a_list(path))
        window.at += 1
        while (sign := window.next()) != "]":
            if not sign:
                raise window.broken(path, "no , or ]")
            stop = window.at
            try:
                row, stop = decoder.raw_decode(window.text, window.at)
            except ValueError as error:
                if window.may_be_cut(error) and window.fill():
                    continue
                raise window.broken(path, getattr(error, "msg", str(error))) from None
            except RecursionError:
                raise window.broken(path, "nested too deeply") from None
            if len(window.text) - stop < _CUT and window.fill():  # a number may go on: 1, 1.5, 1.5e-3
                continue
            yield (window.offset + window.at, window.offset + stop), row
            window.at = stop
            sign = window.next()
            if sign == ",":
                window.at += 1
            elif sign != "]":
                raise window.broken(path, "no , or ]")
        window.at += 1
        if window.next():
            raise DataError(f"{path} goes on after the end of its list (line {window.line()}); keep one list in a file")


class _Window:
    """A stretch of a file as text; `offset` is the place of its beginning, `at` where reading is."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lines = 0
        self.text = ""
        self.offset = 0
        self.at = 0
        if file.read(len(_BOM)) == _BOM:
            self.offset = len(_BOM)
        file.seek(self.offset)

    def fill(self) -> bool:
        """Drop what lies behind `at` and read on, twice as much as is kept; False at the end, or past a row's limit."""
        kept = len(self.text) - self.at
        if kept > MOST_ROW_BYTES:
            return False
        more = self._file.read(max(_WINDOW, kept))
        if not more:
            return False
        self._lines += self.text.count("\n", 0, self.at)
        self.text = self.text[self.at :] + more.decode("latin-1")
        self.offset += self.at
        self.at = 0
        return True

    def next(self) -> str:
        """The next character that is no space, not taken; empty at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.at)
            self.at = match.end() if match else self.at
            if self.at < len(self.text) or not self.fill():
                return self.text[self.at : self.at + 1]

    def may_be_cut(self, error: ValueError) -> bool:
        """Whether the rest of the file could repair this error."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated") or error.pos >= len(self.text) - _CUT

    def line(self) -> int:
        """Number of the line that `at` is in."""
        return self._lines + self.text.count("\n", 0, self.at) + 1

    def broken(self, path: Path, problem: str) -> DataError:
        return DataError(f"{path} is not JSON ({problem} at line {self.line()}); was it cut short? write it again")


def _not_a_list(path: Path) -> str:
    """What the file holds instead of a list of samples, and what to do about it."""
    wanted = "LLaVA JSON is a list of samples"
    with path.open("rb") as file:
        content = file.read(MOST_ROW_BYTES)
    whole = len(content) < MOST_ROW_BYTES
    try:
        text = content.decode("utf-8-sig", errors="strict" if whole else "ignore")
    except UnicodeDecodeError as error:
        return f"{path} cannot be read as UTF-8 text ({error}); save it as UTF-8 JSON"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if not text.strip():
            return f"{path} is empty; {wanted}"
        hint = "; for one object a line use the ending .jsonl" if text.lstrip().startswith("{") else ""
        coco = not whole and '"images"' in text and '"annotations"' in text
        return _COCO.format(path=path) if coco else f"{path} is not JSON ({str(error)[:100]}); {wanted}{hint}"
    if not isinstance(value, dict):
        return f"{path} holds a {type(value).__name__}; {wanted}"
    if "annotations" in value and "images" in value:
        return _COCO.format(path=path)
    return f"{path} holds an object with the keys {', '.join(list(value)[:6]) or 'none'}; {wanted}"
