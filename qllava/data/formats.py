"""Data files as indexable tables of conversations: LLaVA JSON and JSONL, HF `messages`, parquet, hub data sets.

A JSON file stays on disk: the table keeps the byte span of every row and decodes one at a time. So 665,000 rows are
16 MB in memory, and a data worker gets a path and three arrays. The whole file is read through once (`row_index.py`).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qllava.data.json_spans import line_spans, list_spans
from qllava.data.row_index import UNREADABLE, RowIndex, index_path, load_index, numbered, save_index
from qllava.data.rows import ImagePosition, ParsedRow, RowRejected, parse_row
from qllava.errors import DataError
from qllava.types import Conversation

_JSON_SUFFIXES = (".json", ".jsonl")


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
        """(rows,) equal numbers share their pictures, -1 is text only, `UNREADABLE` a row that does not fit the schema.

        None where only decoding the rows would tell.
        """
        return None

    def pictures(self) -> Iterator[str]:
        """Each picture of the readable rows once, in their order."""
        seen: set[str] = set()
        for row in range(len(self)):
            try:
                images = self.parsed(row).conversation.images
            except RowRejected:
                continue
            yield from (name for name in dict.fromkeys(images) if name not in seen)
            seen.update(images)

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
        return self.parsed(number).conversation

    def parsed(self, index: int) -> ParsedRow:
        """The conversation of one row, and what was left out of it; `index` is not negative.

        Raises:
            RowRejected: the row does not fit the schema; `reason` says which rule.
            DataError: the file changed since it was opened.
        """
        return parse_row(self._row(index), f"{self.source}, row {index}", index, self.image_position)

    @abstractmethod
    def write_rows(self, rows: Sequence[int], out: Path) -> None:
        """Some of the rows, byte for byte where the format has bytes of its own, as a file of the same format."""

    def __iter__(self) -> Iterator[Conversation]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class _JsonTable(ConversationTable):
    """Rows of a file, by the bytes [start, stop) each takes."""

    path: Path
    index: RowIndex
    stamp: tuple[int, int]  # size and mtime when it was read

    def __len__(self) -> int:
        return len(self.index.starts)

    def picture_groups(self) -> NDArray[np.int64] | None:
        """See the base; known since the file was read through."""
        return self.index.groups

    def pictures(self) -> Iterator[str]:
        """See the base."""
        return iter(self.index.pictures())

    def _row(self, index: int) -> object:
        with self.path.open("rb") as file:
            if _stamp(self.path) != self.stamp:
                raise DataError(f"{self.source} changed while it was in use; start again")
            start, stop = int(self.index.starts[index]), int(self.index.stops[index])
            file.seek(start)
            content = file.read(stop - start)
        try:
            return json.loads(content.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise RowRejected(
                f"{self.source}, row {index} is not UTF-8 ({error}); save it as UTF-8 JSON", "not_text"
            ) from None
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise RowRejected(
                f"{self.source}, row {index} is not JSON ({reason}); write it again", "not_json"
            ) from None

    def write_rows(self, rows: Sequence[int], out: Path) -> None:
        """The bytes of the rows, one a line; between brackets and commas for a list."""
        before, between, after = (b"", b"\n", b"\n") if self.path.suffix == ".jsonl" else (b"[\n", b",\n", b"\n]\n")
        with self.path.open("rb") as source, out.open("wb") as target:
            target.write(before)
            for number, row in enumerate(rows):
                target.write(between if number else b"")
                start, stop = int(self.index.starts[row]), int(self.index.stops[row])
                source.seek(start)
                target.write(source.read(stop - start))
            target.write(after)


@dataclass(frozen=True)
class SelectedTable(ConversationTable):
    """Some rows of another table, by its numbers; errors name the row of that table."""

    table: ConversationTable
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    def parsed(self, index: int) -> ParsedRow:
        """See the base."""
        return self.table.parsed(int(self.indices[index]))

    def picture_groups(self) -> NDArray[np.int64] | None:
        """See the base."""
        groups = self.table.picture_groups()
        return None if groups is None else groups[self.indices]

    def _row(self, index: int) -> object:
        return self.table._row(int(self.indices[index]))

    def write_rows(self, rows: Sequence[int], out: Path) -> None:
        """See the base."""
        self.table.write_rows([int(self.indices[row]) for row in rows], out)


@dataclass(frozen=True)
class _ArrowTable(ConversationTable):
    """Rows of a `datasets.Dataset`, memory-mapped by it."""

    rows: Any

    def __len__(self) -> int:
        return len(self.rows)

    def _row(self, index: int) -> object:
        return self.rows[index]

    def write_rows(self, rows: Sequence[int], out: Path) -> None:
        """Parquet."""
        self.rows.select(list(rows)).to_parquet(str(out))


def load_conversations(
    source: str | Path,
    *,
    image_root: Path | None = None,
    image_position: ImagePosition = "first",
    strict: bool = True,
) -> ConversationTable:
    """Open a data set without holding it in memory.

    Args:
        source: a .json, .jsonl or .parquet file, a folder of parquet files, or a hub id (`owner/name`, or
            `owner/name:split`; the split is `train` unless given).
        image_root: folder that image names are relative to; carried along.
        image_position: `first` or `as_written`, see `qllava.data.rows.parse_row`.
        strict: a row that does not fit the schema is an error here (JSON; of parquet the first row is looked at), not
            when it is asked for.

    Raises:
        DataError: missing, empty or unreadable, or a row that does not fit the schema: what, where, and the fix.
    """
    path = Path(source)
    if path.is_file():
        if path.suffix in _JSON_SUFFIXES:
            return _open_json(path, image_root, image_position, strict=strict)
        if path.suffix == ".parquet":
            arguments: dict[str, Any] = {"path": "parquet", "data_files": str(path)}
            return _open_arrow(str(source), arguments, image_root, image_position, strict=strict)
        raise DataError(f"{source} is no data file that qllava reads; use .json, .jsonl or .parquet")
    if path.is_dir():
        files = sorted(str(file) for file in path.rglob("*.parquet"))
        if not files:
            raise DataError(f"folder {source} holds no .parquet file; name the data file itself")
        arguments = {"path": "parquet", "data_files": files}
        return _open_arrow(str(source), arguments, image_root, image_position, strict=strict)
    name, _, split = str(source).partition(":")
    if path.suffix in (*_JSON_SUFFIXES, ".parquet") or name.count("/") != 1 or name.startswith((".", "/")):
        raise DataError(f"data file {source} does not exist; write one with `qllava gen-data --images FOLDER`")
    arguments = {"path": name, "split": split or "train"}
    return _open_arrow(str(source), arguments, image_root, image_position, strict=strict)


def select_rows(table: ConversationTable, indices: Sequence[int]) -> SelectedTable:
    """Some rows of a table, as a table."""
    return SelectedTable(
        source=table.source,
        image_root=table.image_root,
        image_position=table.image_position,
        table=table,
        indices=np.asarray(indices, dtype=np.int64),
    )


def _open_json(
    path: Path, image_root: Path | None, image_position: ImagePosition, *, strict: bool
) -> ConversationTable:
    try:
        stamp, kept = _stamp(path), index_path(path)
        known = load_index(kept)
        spans = known or _spans(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check the file") from None
    if not len(spans.starts):
        raise DataError(f"{path} holds no samples; write some with `qllava gen-data --images FOLDER`")
    table = _JsonTable(
        source=str(path),
        image_root=image_root,
        image_position=image_position,
        path=path.resolve(),
        index=spans,
        stamp=stamp,
    )
    if known is None:
        table = replace(table, index=numbered(spans, (_images(table, row) for row in range(len(table)))))
    bad = np.flatnonzero(table.index.groups == UNREADABLE)
    if strict and len(bad):
        table.parsed(int(bad[0]))  # raises what is wrong with it
    if known is None:
        save_index(kept, table.index)
    return table


def _spans(path: Path) -> RowIndex:
    """Where the rows lie; nothing is known of what is in them."""
    spans = array("q")
    found = line_spans(path) if path.suffix == ".jsonl" else (span for span, _ in list_spans(path))
    for span in found:
        spans.extend(span)
    edges = np.frombuffer(spans, dtype=np.int64).reshape(-1, 2) if spans else np.zeros((0, 2), dtype=np.int64)
    return RowIndex(edges[:, 0].copy(), edges[:, 1].copy(), np.zeros(len(edges), dtype=np.int64), ())


def _images(table: ConversationTable, row: int) -> tuple[str, ...] | None:
    """The pictures of one row; None where it cannot be read."""
    try:
        return table.parsed(row).conversation.images
    except RowRejected:
        return None


def _open_arrow(
    source: str,
    arguments: Mapping[str, Any],
    image_root: Path | None,
    image_position: ImagePosition,
    *,
    strict: bool,
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
    if strict:
        table.parsed(0)  # the schema of the first row speaks for most
    return table


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
