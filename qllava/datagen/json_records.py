"""JSON lists and JSON lines, one object at a time: a file of gigabytes takes the memory of its largest object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from qllava.errors import DataError

_CHUNK = 1 << 20
_LARGEST = 1 << 26  # characters; what does not end before that is broken, not long
_SPACE = " \t\r\n"
_DECODER = json.JSONDecoder()
LINE_SUFFIXES = frozenset({".jsonl", ".ndjson"})

Record = dict[str, Any]


def json_records(path: Path) -> Iterator[tuple[str, Record]]:
    """(where it stands, the object) for each object of a JSON list, or of JSON lines by the file's suffix.

    Raises:
        DataError: the file cannot be read, is no JSON, or holds something else than objects; says where.
    """
    try:
        yield from _lines(path) if path.suffix.lower() in LINE_SUFFIXES else _list(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not text in UTF-8; save it as UTF-8") from None


def first_json_record(path: Path) -> Record | None:
    """The first object, or None where the file does not begin like a JSON list or JSON lines of objects."""
    try:
        return next((record for _, record in islice(json_records(path), 1)), None)
    except DataError:
        return None


def _lines(path: Path) -> Iterator[tuple[str, Record]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{where} is not JSON (column {error.colno}: {error.msg}); repair the line") from None
            yield where, _object(value, where)


def _list(path: Path) -> Iterator[tuple[str, Record]]:
    with path.open(encoding="utf-8-sig") as file:
        text = file.read(_CHUNK).lstrip(_SPACE)
        if not text.startswith("["):
            raise DataError(f"{path} is not a JSON list; it begins with {text[:20]!r}")
        at, number, comma = 1, 0, True
        while True:
            while at < len(text) and text[at] in _SPACE:
                at += 1
            where = f"{path}, entry {number + 1}"
            problem, here = "the file ends inside the list", text[at : at + 1]
            if here == "]" and not (comma and number):
                if text[at + 1 :].strip(_SPACE) or file.read().strip(_SPACE):
                    raise DataError(f"{path}: more text follows the end of the list; download or write it again")
                return
            if here and not comma:
                if here != ",":
                    raise DataError(f"{where} is not JSON (no comma before it); download or write it again")
                at, comma = at + 1, True
                continue
            if here:
                try:
                    value, at = _DECODER.raw_decode(text, at)
                except json.JSONDecodeError as error:
                    problem = error.msg
                else:
                    number, comma = number + 1, False
                    yield where, _object(value, where)
                    continue
            # Whatever is wrong may only be the end of what was read so far.
            more = file.read(_CHUNK) if len(text) - at < _LARGEST else ""
            if not more:
                raise DataError(f"{where} is not JSON ({problem}); download or write it again")
            text, at = text[at:] + more, 0


def _object(value: object, where: str) -> Record:
    if not isinstance(value, dict):
        raise DataError(f"{where} is {str(value)[:40]!r}, not an object")
    return value
