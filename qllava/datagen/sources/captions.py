"""Pictures with captions and no boxes: caption tables, text files beside pictures, and pictures alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from qllava.datagen.json_records import Record
from qllava.datagen.sources.assembly import Found, assemble, one_line, split_word
from qllava.datagen.sources.pictures import Pictures, is_picture, suffix_of, walk
from qllava.datagen.sources.scene import Note, Source
from qllava.datagen.sources.tables import Columns, find_columns, table_records
from qllava.errors import DataError

TABLE = "caption table"
SIDECARS = "caption files beside pictures"
BARE = "pictures only"
_NUMBERS_ONLY = re.compile(r"[-\d.,\s]+")


def read_tables(images: Path, files: Mapping[str, Path], *, leave_out: Path | None = None) -> Source:
    """Read caption tables, by the split they are of ("" for none); rows of one picture are collected in order.

    Raises:
        DataError: a row that does not fit, or not one picture is on disk.
    """
    pictures = Pictures(images, leave_out)
    captions: dict[tuple[str, str], list[str]] = {}
    missing: dict[str, None] = {}
    for split, path in files.items():
        columns: Columns | None = None
        for where, record in table_records(path):
            columns = columns or find_columns(list(record))
            if columns is None:
                raise DataError(f"{where} has no columns for a picture and its caption; name them image and caption")
            listed = _listed(record, columns, where)
            image = pictures.find(listed)
            if image is None:
                missing[listed] = None
                continue
            stated = split_word(str(record.get(columns.split, ""))) if columns.split else ""
            captions.setdefault((image, stated or split), []).extend(_texts(record, columns, where))
    if not captions:
        raise _nothing(images, files.values(), missing)
    found = (Found(image, tuple(texts), split=split) for (image, split), texts in captions.items())
    return assemble(found, root=images, kind=TABLE, missing=missing)


def read_sidecars(images: Path, *, leave_out: Path | None = None) -> Source:
    """Read the captions in `a.txt` beside `a.jpg`, one a line; a picture without such a file has none.

    Raises:
        DataError: a text file that cannot be read.
    """
    notes: list[Note] = []
    return assemble(_beside(images, leave_out, notes), root=images, kind=SIDECARS, notes=notes)


def read_bare(images: Path, *, leave_out: Path | None = None) -> Source:
    """Pictures and nothing else."""
    return assemble((Found(image) for image in Pictures(images, leave_out).paths), root=images, kind=BARE)


def has_sidecars(images: Path, *, leave_out: Path | None = None) -> bool:
    """Whether any picture below a folder has a text file beside it."""
    for _, names in walk(images, leave_out):
        texts = {name[:-4] for name in names if name.endswith(".txt")}
        if texts and any(name.rsplit(".", 1)[0] in texts for name in names if is_picture(name)):
            return True
    return False


def read_text(path: Path) -> str:
    """A small text file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not text in UTF-8; save it as UTF-8") from None


def _listed(record: Record, columns: Columns, where: str) -> str:
    listed = record.get(columns.image)
    if not isinstance(listed, str) or not listed.strip():
        raise DataError(f"{where} has {columns.image} {listed!r}, not the name of a picture")
    if listed.startswith(("http://", "https://")):
        raise DataError(
            f"{where} has {columns.image} {listed}; download the pictures first, for example by img2dataset"
        )
    return listed


def _texts(record: Record, columns: Columns, where: str) -> list[str]:
    value = record.get(columns.caption)
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where} has {columns.caption} {str(value)[:60]!r}; a text or a list of texts is needed")
    return [one_line(text) for text in texts]


def _nothing(images: Path, files: Iterable[Path], missing: Iterable[str]) -> DataError:
    lacking = list(missing)
    if not lacking:
        return DataError(f"{', '.join(str(path) for path in files)} has no rows; give it some")
    return DataError(
        f"none of the {len(lacking):,} pictures in {', '.join(str(path) for path in files)} is below {images} "
        f"(looked for {lacking[0]}); name their folder with --images"
    )


def _beside(images: Path, leave_out: Path | None, notes: list[Note]) -> Iterator[Found]:
    for prefix, names in walk(images, leave_out):
        texts = {name[:-4]: f"{prefix}{name}" for name in names if suffix_of(name) == ".txt"}
        used: set[str] = set()
        for name in filter(is_picture, names):
            stem = name.rsplit(".", 1)[0]
            if stem not in texts:
                yield Found(f"{prefix}{name}")
                continue
            used.add(stem)
            lines = [one_line(line) for line in read_text(images / texts[stem]).splitlines() if line.strip()]
            if lines and all(_NUMBERS_ONLY.fullmatch(line) for line in lines):
                # YOLO keeps its labels in such files.
                notes.append(Note("text file of numbers, not captions", texts[stem]))
                lines = []
            yield Found(f"{prefix}{name}", tuple(lines))
        notes.extend(Note("text file without a picture", texts[stem]) for stem in sorted(texts.keys() - used))
