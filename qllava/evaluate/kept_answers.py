"""A model's answers, on the disk as they come: a run that was cut off goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qllava.errors import DataError


def read_kept(path: Path, identity: Mapping[str, Any]) -> dict[str, str]:
    """Answers by question id, from a file of `keep`; empty where there is none. A line cut short at the end is left.

    Args:
        path: one object a line; the first says what the answers belong to.
        identity: what they must belong to: question set, model, settings.

    Raises:
        DataError: the file is of another set, model or setting (says which), or a line before the last is damaged.
    """
    if not path.is_file() or not path.stat().st_size:
        return {}
    lines = path.read_bytes().split(b"\n")
    rows = [_row(line) for line in lines[:-1]]
    if not rows:
        return {}
    head = rows[0] or {}
    for key, value in identity.items():
        if head.get("answers", {}).get(key) != value:
            raise DataError(
                f"{path} holds answers of another {key} ({head.get('answers', {}).get(key)!r}, not {value!r}); "
                "choose another --out or move the file away"
            )
    kept: dict[str, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        if row is None or not isinstance(row.get("id"), str) or not isinstance(row.get("answer"), str):
            raise DataError(f"{path}, line {number} is no answer; remove the line, or move the file away")
        kept.setdefault(row["id"], row["answer"])
    return kept


def keep(path: Path, identity: Mapping[str, Any], answers: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Append (question id, answer) pairs to the file as they come, and pass them on once they are there.

    Raises:
        OSError: they cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        _cut_unfinished(file.fileno(), path)
        if not path.stat().st_size:
            file.write(_line({"answers": dict(identity)}))
        for question, answer in answers:
            file.write(_line({"id": question, "answer": answer}))
            file.flush()
            yield question, answer
        os.fsync(file.fileno())


def _cut_unfinished(descriptor: int, path: Path) -> None:
    """Drop what a crash left of the last line."""
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.ftruncate(descriptor, end)


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
