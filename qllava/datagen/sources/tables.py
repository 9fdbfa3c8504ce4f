"""Tables of any spelling as records: CSV, TSV and their kin, JSON lists and JSON lines; columns found by name."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from qllava.datagen.json_records import LINE_SUFFIXES, Record, first_json_record, json_records
from qllava.datagen.sources.pictures import is_picture
from qllava.errors import DataError

TEXT_SUFFIXES = frozenset({".csv", ".tsv", ".txt"})
# The first one that a table has is taken.
IMAGE_NAMES = (
    *("image", "image_path", "image_file", "image_filename", "image_name", "imagename", "img", "img_path"),
    *("file_name", "filename", "filepath", "file_path", "file", "path", "picture", "photo"),
)
CAPTION_NAMES = (
    *("caption", "captions", "caption_text", "captions_text", "text", "texts", "sentence", "sentences", "comment"),
    *("description", "blip_caption", "raw", "txt"),
)
_SPLIT_NAMES = ("split",)
_DELIMITERS = "\t,|;"
# Flickr's token files number the captions of a picture in its name.
_NUMBERED = re.compile(r"#\d+$")


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of a table's columns that matter; `split` None where it has none."""

    image: str
    caption: str
    split: str | None = None


@dataclass(frozen=True, slots=True)
class _Shape:
    """How a text table is cut: one of `_DELIMITERS`, and its names, given by the first line or (no header) by us."""

    delimiter: str
    names: tuple[str, ...]
    has_header: bool
    columns: Columns


def find_columns(names: Sequence[str]) -> Columns | None:
    """The image, caption and split columns among these names; None without the first two."""
    image, caption = _first(names, IMAGE_NAMES), _first(names, CAPTION_NAMES)
    return None if image is None or caption is None else Columns(image, caption, _first(names, _SPLIT_NAMES))


def table_columns(path: Path) -> Columns | None:
    """The columns of a caption table, by its first line or entry; None where it is no such table.

    Raises:
        DataError: a CSV or TSV that cannot be read.
    """
    if path.suffix.lower() not in TEXT_SUFFIXES:
        record = first_json_record(path)
        return None if record is None else find_columns(list(record))
    shape = _shape(path)
    return None if shape is None else shape.columns


def table_records(path: Path) -> Iterator[tuple[str, Record]]:
    """(where it stands, the row by column name) for each row of a caption table.

    Raises:
        DataError: the file cannot be read, or a row does not have the columns of the first line; says where.
    """
    if path.suffix.lower() not in TEXT_SUFFIXES:
        yield from json_records(path)
        return
    try:
        yield from _text_records(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not text in UTF-8; save it as UTF-8") from None


def is_table(path: Path) -> bool:
    """Whether a file's name may be that of a table."""
    return path.suffix.lower() in TEXT_SUFFIXES | LINE_SUFFIXES | {".json"}


def _text_records(path: Path) -> Iterator[tuple[str, Record]]:
    shape = _shape(path)
    if shape is None:
        raise DataError(f"{path} has no columns for a picture and its caption; name them image and caption")
    with path.open(encoding="utf-8-sig", newline="") as file:
        for line, row in _rows(path, file, shape.delimiter):
            where = f"{path}, line {line}"
            if (line == 1 and shape.has_header) or not any(row):
                continue
            if len(row) != len(shape.names):
                raise DataError(
                    f"{where} has {len(row)} columns where the table has {len(shape.names)}; "
                    "put captions that hold the separator in double quotes"
                )
            record = dict(zip(shape.names, (cell.strip() for cell in row), strict=True))
            record[shape.columns.image] = _NUMBERED.sub("", record[shape.columns.image])
            yield where, record


def _rows(path: Path, file: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells); only commas and semicolons come with quotes that may span lines."""
    if delimiter in "\t|":
        # A lone quote at the start of a caption must not swallow the rows after it.
        for number, line in enumerate(file, start=1):
            yield number, [_unquoted(cell) for cell in line.rstrip("\r\n").split(delimiter)]
        return
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    start = 1
    try:
        for row in reader:
            yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {start} cannot be cut into columns ({error}); repair its quotes") from None


def _unquoted(cell: str) -> str:
    plain = cell.strip()
    is_quoted = len(plain) > 1 and plain[0] == plain[-1] == '"'
    return plain[1:-1].replace('""', '"') if is_quoted else plain


def _shape(path: Path) -> _Shape | None:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(islice(file, 1))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        if path.suffix.lower() == ".txt":
            return None  # any text may lie about; a table is meant to be read
        raise DataError(f"{path} is not text in UTF-8; save it as UTF-8") from None
    for delimiter in _DELIMITERS if lines else "":
        try:
            _, cells = next(_rows(path, iter(lines), delimiter))
        except DataError:
            continue
        names = tuple(cell.strip() for cell in cells)
        columns = find_columns(names)
        if columns is not None:
            return _Shape(delimiter, names, has_header=True, columns=columns)
        pictures = [is_picture(_NUMBERED.sub("", name)) for name in names]
        if sum(pictures) == 1 and len(names) == 2:
            guessed = ("image", "caption") if pictures[0] else ("caption", "image")
            return _Shape(delimiter, guessed, has_header=False, columns=Columns("image", "caption"))
    return None


def _first(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    plain = {name.strip().lower(): name for name in reversed(names)}
    return next((plain[name] for name in wanted if name in plain), None)
