"""Data files as indexable tables of conversations: LLaVA JSON and JSONL, HF `messages`, parquet, hub data sets.

A JSON file stays on disk: the table keeps the byte span of every row and decodes one at a time. So 665,000 rows are
16 MB in memory, and a data worker gets a path and three arrays. The whole file is checked once (`row_index.py`).
"""

from __future__ import annotations

import codecs
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qllava.data.row_index import RowIndex, build_index, index_path, load_index, save_index
from qllava.data.rows import ImagePosition, parse_row
from qllava.errors import DataError
from qllava.types import Conversation

_JSON_SUFFIXES = (".json", ".jsonl")
_SPACE = " \t\r\n"
_BOM = codecs.BOM_UTF8.decode("latin-1")
_CHUNK = 1 << 24


@dataclass(frozen=True)
class ConversationTable(ABC):
    """Conversations by index, decoded on access; pickles cheaply.

    Attributes:
        source: the file or hub id they come from.
        image_root: folder that image names are relative to, if it is known.
        image_position: where a turn's picture goes, see `parse_row`.
    """

    source: str
    image_root: Path | None
    image_position: ImagePosition

    @abstractmethod
    def __len__(self) -> int: ...

    def picture_groups(self) -> NDArray[np.int64] | None:
        """(rows,) equal numbers share their pictures, -1 is text only; None where only decoding the rows would tell."""
        return None

    @abstractmethod
    def _row(self, index: int) -> object: ...

    def __getitem__(self, index: int, /) -> Conversation:
        """The conversation of one row; negative indices count from the end.

        Raises:
            IndexError: out of range.
            DataError: the row does not fit the schema, or the file changed since it was opened.
        """
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return parse_row(self._row(number), f"{self.source}, row {number}", number, self.image_position)

    def __iter__(self) -> Iterator[Conversation]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class _JsonTable(ConversationTable):
    """Rows of a file, by the bytes each takes."""

    path: Path
    index: RowIndex
    stamp: tuple[int, int]  # size and mtime when it was read

    def __len__(self) -> int:
        return len(self.index.starts)

    def picture_groups(self) -> NDArray[np.int64]:
        """See the base; known since the file was checked."""
        return self.index.groups

    def _row(self, index: int) -> object:
        with self.path.open("rb") as file:
            if _stamp(self.path) != self.stamp:
                raise DataError(f"{self.source} changed while it was in use; start again")
            start, stop = int(self.index.starts[index]), int(self.index.stops[index])
            file.seek(start)
            return json.loads(file.read(stop - start))


@dataclass(frozen=True)
class _ArrowTable(ConversationTable):
    """Rows of a `datasets.Dataset`, memory-mapped by it."""

    rows: Any

    def __len__(self) -> int:
        return len(self.rows)

    def _row(self, index: int) -> object:
        return self.rows[index]


def load_conversations(
    source: str | Path, *, image_root: Path | None = None, image_position: ImagePosition = "first"
) -> ConversationTable:
    """Open a data set without holding it in memory.

    Args:
        source: a .json, .jsonl or .parquet file, a folder of parquet files, or a hub id (`owner/name`, or
            `owner/name:split`; the split is `train` unless given).
        image_root: folder that image names are relative to; carried along.
        image_position: `first` or `as_written`, see `qllava.data.rows.parse_row`.

    Raises:
        DataError: missing, empty or unreadable, or (JSON; the whole file is checked) a row that does not fit the
            schema: what, where, and the fix.
    """
    path = Path(source)
    if path.is_file():
        if path.suffix in _JSON_SUFFIXES:
            return _open_json(path, image_root, image_position)
        if path.suffix == ".parquet":
            return _open_arrow(str(source), {"path": "parquet", "data_files": str(path)}, image_root, image_position)
        raise DataError(f"{source} is no data file that qllava reads; use .json, .jsonl or .parquet")
    if path.is_dir():
        files = sorted(str(file) for file in path.rglob("*.parquet"))
        if not files:
            raise DataError(f"folder {source} holds no .parquet file; name the data file itself")
        return _open_arrow(str(source), {"path": "parquet", "data_files": files}, image_root, image_position)
    name, _, split = str(source).partition(":")
    if path.suffix in (*_JSON_SUFFIXES, ".parquet") or name.count("/") != 1 or name.startswith((".", "/")):
        raise DataError(f"data file {source} does not exist; write one with `qllava gen-data --images FOLDER`")
    return _open_arrow(str(source), {"path": name, "split": split or "train"}, image_root, image_position)


def _open_json(path: Path, image_root: Path | None, image_position: ImagePosition) -> ConversationTable:
    stamp = _stamp(path)
    kept = index_path(path)
    index = load_index(kept)
    if index is None:
        index = build_index(_checked_rows(path, image_position))
        if not len(index.starts):
            raise DataError(f"{path} holds no samples; write some with `qllava gen-data --images FOLDER`")
        save_index(kept, index)
    return _JsonTable(
        source=str(path),
        image_root=image_root,
        image_position=image_position,
        path=path.resolve(),
        index=index,
        stamp=stamp,
    )


def _checked_rows(path: Path, image_position: ImagePosition) -> Iterator[tuple[int, int, Conversation]]:
    content = _read_bytes_as_text(path)
    rows = _json_lines(content, path) if path.suffix == ".jsonl" else _json_list(content, path)
    for number, (start, stop, row) in enumerate(rows):
        try:
            conversation = parse_row(row, "", number, image_position)
        except DataError:
            conversation = None
        if conversation is None or not "".join(conversation.images).isascii():
            # Again with the text itself, not its Latin-1 reading: for the message, or to compare names of pictures.
            text = json.loads(_as_utf8(content[start:stop]))
            conversation = parse_row(text, f"{path}, row {number}", number, image_position)
        yield start, stop, conversation


def _read_bytes_as_text(path: Path) -> str:
    """The file with one character for each byte (Latin-1), so that places in the text are places in the file.

    JSON's own signs are ASCII, so its structure reads the same; and a gigabyte stays a gigabyte, where one emoji would
    make it four.
    """
    try:
        content = path.read_bytes()
        decoder = codecs.getincrementaldecoder("utf-8")()
        for start in range(0, len(content), _CHUNK):
            decoder.decode(content[start : start + _CHUNK], final=start + _CHUNK >= len(content))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text ({error}); save it as UTF-8 JSON") from None
    return content.decode("latin-1")


def _as_utf8(piece: str) -> str:
    return piece.encode("latin-1").decode("utf-8")


def _json_lines(content: str, path: Path) -> Iterator[tuple[int, int, object]]:
    """(start, stop, row) of each line that is not blank."""
    start = len(_BOM) if content.startswith(_BOM) else 0
    number = 0
    while start < len(content):
        stop = content.find("\n", start)
        stop = len(content) if stop < 0 else stop
        number += 1
        line = content[start:stop]
        if line.strip():
            try:
                yield start, stop, json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number} is not JSON ({error}); each line is one object") from None
        start = stop + 1


def _json_list(content: str, path: Path) -> Iterator[tuple[int, int, object]]:
    """(start, stop, row) of each element of a JSON list, one element in memory at a time."""
    decoder = json.JSONDecoder()
    at = _skip_space(content, len(_BOM) if content.startswith(_BOM) else 0)
    if content[at : at + 1] != "[":
        raise DataError(_not_a_list(content, path))
    at = _skip_space(content, at + 1)
    while content[at : at + 1] != "]":
        try:
            row, stop = decoder.raw_decode(content, at)
        except ValueError as error:
            raise DataError(f"{path} is not JSON ({error}); was it cut short? write it again") from None
        yield at, stop, row
        at = _skip_space(content, stop)
        if content[at : at + 1] == ",":
            at = _skip_space(content, at + 1)
        elif content[at : at + 1] != "]":
            line = content.count("\n", 0, at) + 1
            raise DataError(f"{path} is not JSON (no , or ] at line {line}); was it cut short? write it again")


def _skip_space(content: str, at: int) -> int:
    while at < len(content) and content[at] in _SPACE:
        at += 1
    return at


def _not_a_list(content: str, path: Path) -> str:
    """What the file holds instead of a list of samples, and what to do about it."""
    wanted = "LLaVA JSON is a list of samples"
    if not content.strip():
        return f"{path} is empty; {wanted}"
    try:
        value = json.loads(_as_utf8(content))
    except ValueError as error:
        hint = "; for one object a line use the ending .jsonl" if content.lstrip().startswith("{") else ""
        return f"{path} is not JSON ({error}); {wanted}{hint}"
    if isinstance(value, dict):
        if "annotations" in value and "images" in value:
            return f"{path} holds COCO annotations, not conversations; make some with `qllava gen-data --images FOLDER`"
        return f"{path} holds an object with the keys {', '.join(list(value)[:6]) or 'none'}; {wanted}"
    return f"{path} holds a {type(value).__name__}; {wanted}"


def _open_arrow(
    source: str, arguments: dict[str, Any], image_root: Path | None, image_position: ImagePosition
) -> ConversationTable:
    # Imported here: a second that JSON files do not need.
    from datasets import Dataset, Image, Sequence, load_dataset  # noqa: PLC0415
    from datasets.exceptions import DatasetsError  # noqa: PLC0415

    try:
        rows = load_dataset(**{"split": "train", **arguments})
    except (OSError, ValueError, DatasetsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"data set {source} cannot be opened ({reason}); check its name and your network") from None
    if not isinstance(rows, Dataset) or not len(rows):
        raise DataError(f"data set {source} holds no samples; check the split (owner/name:split)")
    columns = set(rows.column_names)
    if not columns & {"conversations", "messages"}:
        raise DataError(
            f"data set {source} has neither a `conversations` nor a `messages` column "
            f"(columns: {', '.join(sorted(columns))}); convert it to LLaVA JSON"
        )
    for name, feature in rows.features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(name, Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), Image):
            rows = rows.cast_column(name, Sequence(Image(decode=False)))
    table = _ArrowTable(source=source, image_root=image_root, image_position=image_position, rows=rows)
    table[0]  # the schema of the first row speaks for most
    return table


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
