"""What gen-data wrote, picture by picture: samples, rejections, and the captions and boxes that the teacher saw.

One pass notes where each picture's entries are; they are read when asked for, so memory holds places and no texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from qllava.errors import DataError, UsageError
from qllava.report.page import PageBox, PageEntry

_SAMPLES, _PAIRS, _REJECTED, _RESPONSES = "instruct.json", "align.json", "rejected.jsonl", "responses.jsonl"
_PLACEHOLDER = "<image>"


@dataclass(frozen=True, slots=True)
class PictureRecord:
    """Everything about one picture; `image` is relative to the image root, empty for samples without a picture."""

    image: str
    captions: tuple[str, ...]
    boxes: tuple[PageBox, ...]
    samples: tuple[PageEntry, ...]


class DataFolder:
    """A folder with `card.json` and `instruct.json`; `rejected.jsonl` and `responses.jsonl` are read if they are there.

    Where `instruct.json` is empty, as captions alone leave it, the caption pairs of `align.json` are the samples.

    `images` are the pictures that have a sample or a rejection, in the order of the files; `elsewhere` counts the
    rejections that name no picture. A context manager: it keeps the files open.
    """

    def __init__(self, folder: Path) -> None:
        card = _card(folder)
        self.teacher = str(card.get("teacher", "unknown"))
        self.image_root = (folder / str(card.get("image_root", "."))).resolve()
        if not (folder / _SAMPLES).is_file():
            raise UsageError(f"{folder} has no {_SAMPLES}; name a folder that `qllava gen-data` wrote")
        self._samples = _PAIRS if (folder / _PAIRS).is_file() and _is_empty(folder / _SAMPLES) else _SAMPLES
        files = (self._samples, _REJECTED, _RESPONSES)
        self._places: dict[str, list[tuple[int, int]]] = {}
        self.elsewhere = 0
        with ExitStack() as stack:
            self._tables = [
                stack.enter_context(closing(_Table(folder / name))) for name in files if (folder / name).is_file()
            ]
            shown = self._find()
            self._open = stack.pop_all()
        self.images = [image for image in self._places if image in shown]

    def _find(self) -> set[str]:
        """Note the places of all entries; returns the pictures that have a sample or a rejection."""
        shown: set[str] = set()
        for number, table in enumerate(self._tables):
            for place, row in table.rows():
                image = row.get("image")
                if not isinstance(image, str):
                    self.elsewhere += table.path.name == _REJECTED
                    if table.path.name != self._samples:
                        continue
                    image = ""
                self._places.setdefault(image, []).append((number, place))
                if table.path.name != _RESPONSES:
                    shown.add(image)
        return shown

    def __enter__(self) -> DataFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def picture(self, image: str) -> PictureRecord:
        """All that the files hold about one of `images`."""
        captions: tuple[str, ...] = ()
        boxes: tuple[PageBox, ...] = ()
        samples: list[PageEntry] = []
        for number, place in self._places[image]:
            table = self._tables[number]
            row = table.row(place)
            captions = captions or _captions(row)
            boxes = boxes or _boxes(row)
            if table.path.name == self._samples:
                samples.append(_kept(row))
            elif table.path.name == _REJECTED:
                samples.append(_rejected(row))
        return PictureRecord(image, captions, boxes, tuple(samples))


class _Table:
    """The rows of a JSONL file, or of a JSON list; one with an entry a line, as gen-data writes it, is read by line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        by_line = path.suffix != ".json" or _has_lines(path)
        self._loaded: list[dict[str, Any]] | None = None if by_line else self._load()
        self._file: IO[bytes] = path.open("rb")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(place, row) of each entry; the place is a byte offset or a number."""
        if self._loaded is not None:
            yield from enumerate(self._loaded)
            return
        self._file.seek(0)
        place = 0
        for number, line in enumerate(iter(self._file.readline, b""), start=1):
            if line.strip() not in {b"", b"[", b"]", b"[]"}:
                yield place, self._parse(line, number)
            place += len(line)

    def row(self, place: int) -> dict[str, Any]:
        """The row at a place that `rows` gave."""
        if self._loaded is not None:
            return self._loaded[place]
        self._file.seek(place)
        return self._parse(self._file.readline(), 0)

    def _load(self) -> list[dict[str, Any]]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{self.path} is not JSON ({error}); write it again with `qllava gen-data`") from None
        if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
            raise DataError(f"{self.path} is not a list of objects; it needs LLaVA's format")
        return content

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line.strip().removesuffix(b","))
        except ValueError as error:
            raise DataError(
                f"{self.path}, line {number}: not JSON ({error}); write it again with `qllava gen-data`"
            ) from None
        if not isinstance(row, dict):
            raise DataError(f"{self.path}, line {number}: {str(row)[:40]!r} is not an object")
        return row


def _is_empty(path: Path) -> bool:
    """Whether a JSON list has no entry, as gen-data writes it."""
    with path.open("rb") as file:
        return file.read(8).strip() == b"[]"


def _has_lines(path: Path) -> bool:
    """Whether a JSON list has its entries a line each."""
    with path.open("rb") as file:
        first, second = file.readline().strip(), file.readline().strip().rstrip(b",")
    return first in {b"[", b"[]"} and (second in {b"", b"]"} or _parses(second))


def _parses(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _card(folder: Path) -> Mapping[str, Any]:
    path = folder / "card.json"
    if not path.is_file():
        raise UsageError(f"{folder} has no card.json; name a folder that `qllava gen-data` wrote")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); write the folder again with `qllava gen-data`") from None
    if not isinstance(card, dict):
        raise DataError(f"{path} is not a JSON object; write the folder again with `qllava gen-data`")
    return card


def _kept(row: Mapping[str, Any]) -> PageEntry:
    """A row of LLaVA's format; turns that do not alternate are shown as they come."""
    texts = [
        (str(part.get("from", "")), _plain(part.get("value")))
        for part in row.get("conversations") or ()
        if isinstance(part, dict)
    ]
    turns: list[tuple[str, str]] = []
    for who, text in texts:
        if who == "gpt" and turns and not turns[-1][1]:
            turns[-1] = (turns[-1][0], text)
        else:
            turns.append(("", text) if who == "gpt" else (text, ""))
    return PageEntry(str(row.get("kind") or "conversation"), str(row.get("type") or ""), tuple(turns))


def _rejected(row: Mapping[str, Any]) -> PageEntry:
    turns: list[tuple[str, str]] = []
    for turn in row.get("turns") or ():
        if isinstance(turn, dict):
            turns.append((_plain(turn.get("question")), _plain(turn.get("answer"))))
    if row.get("question") or row.get("answer"):
        turns.append((_plain(row.get("question")), _plain(row.get("answer"))))
    elif not turns and (text := row.get("text") or row.get("caption")):
        turns.append(("", _plain(text)))
    return PageEntry(
        kind=str(row.get("kind") or ("caption" if "caption" in row else "picture")),
        type=str(row.get("type") or ""),
        turns=tuple(turns),
        reason=str(row.get("reason") or "no reason given"),
        detail=_plain(row.get("detail")),
    )


def _captions(row: Mapping[str, Any]) -> tuple[str, ...]:
    found = row.get("captions")
    return tuple(str(caption) for caption in found) if isinstance(found, list) else ()


def _boxes(row: Mapping[str, Any]) -> tuple[PageBox, ...]:
    """`{"category": ..., "box": [x1, y1, x2, y2]}`, 0-1; what is not of this form is not drawn."""
    boxes: list[PageBox] = []
    for entry in row.get("boxes") or ():
        box = entry.get("box") if isinstance(entry, dict) else None
        if isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box):
            x1, y1, x2, y2 = (min(1.0, max(0.0, float(side))) for side in box)
            boxes.append(PageBox(str(entry.get("category", "")), (x1, y1, x2, y2), bool(entry.get("crowd"))))
    return tuple(boxes)


def _plain(value: object) -> str:
    return "" if value is None else str(value).replace(_PLACEHOLDER, "", 1).strip()
