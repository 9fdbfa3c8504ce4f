"""Rows of the `datasets` library: a hub id, a `save_to_disk` folder, parquet files. Pictures are written out once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qllava.datagen.sources.assembly import Found, assemble, one_line, split_word
from qllava.datagen.sources.pictures import Pictures
from qllava.datagen.sources.scene import Note, Source
from qllava.datagen.sources.tables import CAPTION_NAMES, IMAGE_NAMES, Columns, find_columns
from qllava.errors import DataError
from qllava.files import write_json

KIND = "datasets"
_MARK = ".written.json"
_PER_FOLDER = 10_000
_SUFFIXES = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
)


@dataclass(frozen=True, slots=True)
class _Rows:
    """One split; `data` is a `datasets.Dataset`."""

    name: str
    data: Any
    columns: Columns
    holds_pictures: bool


def read_saved(folder: Path, *, unpack_to: Path) -> Source:
    """Read what `Dataset.save_to_disk` wrote.

    Raises:
        DataError: it cannot be opened, or has no image and caption columns.
    """
    from datasets import load_from_disk  # noqa: PLC0415 - a second that other sources do not need

    loaded = _opened(lambda: load_from_disk(str(folder)), str(folder), "save it again by save_to_disk")
    return _source(_splits(loaded), str(folder), folder, unpack_to)


def read_parquet(files: Sequence[Path], images: Path, *, unpack_to: Path) -> Source:
    """Read parquet files; a split word in a file's name (`train-00000-of-00002.parquet`) is its split.

    Pictures are in the rows, or named there and below `images`.

    Raises:
        DataError: they cannot be opened, or have no image and caption columns.
    """
    from datasets import load_dataset  # noqa: PLC0415

    by_split: dict[str, list[str]] = {}
    for path in files:
        by_split.setdefault(split_word(path.stem) or "train", []).append(str(path))
    name = ", ".join(str(path) for path in files[:3])
    loaded = _opened(lambda: load_dataset("parquet", data_files=by_split), name, "download the files again")
    return _source(_splits(loaded), name, images, unpack_to)


def read_hub(identity: str, *, unpack_to: Path) -> Source:
    """Read a data set of the hub, `owner/name` or `owner/name:split`, through the library's own cache.

    Raises:
        DataError: it cannot be opened, or has no image and caption columns.
    """
    from datasets import load_dataset  # noqa: PLC0415

    name, _, split = identity.partition(":")
    fix = "check its name and your network; a folder of that name is not here either"
    loaded = _opened(lambda: load_dataset(name, split=split or None), f"data set {name}", fix)
    return _source(_splits(loaded, split), f"data set {identity}", None, unpack_to)


def _opened(load: Callable[[], Any], name: str, fix: str) -> Any:
    from datasets.exceptions import DatasetsError  # noqa: PLC0415

    try:
        return load()
    except (OSError, ValueError, DatasetsError) as error:
        reason = one_line(str(error))[:200]
        raise DataError(f"--images {name} cannot be opened by `datasets` ({reason}); {fix}") from None


def _splits(loaded: Any, name: str = "") -> dict[str, Any]:
    return dict(loaded) if isinstance(loaded, dict) else {name or str(loaded.split or "train"): loaded}


def _source(splits: Mapping[str, Any], name: str, folder: Path | None, unpack_to: Path) -> Source:
    found: list[Found] = []
    missing: list[str] = []
    notes: list[Note] = []
    inside = [_rows(split, data, name) for split, data in sorted(splits.items())]
    holding = {rows.holds_pictures for rows in inside}
    if len(holding) > 1:
        raise DataError(f"{name}: some splits hold pictures and some name them; read one split at a time")
    if holding == {True}:
        for rows in inside:
            found.extend(_written(rows, unpack_to, notes))
        root = unpack_to
    elif folder is not None:
        pictures = Pictures(folder, unpack_to)
        for rows in inside:
            found.extend(_named(rows, pictures, missing, name))
        root = folder
    else:
        raise DataError(f"{name} names its pictures in {inside[0].columns.image} and does not hold them; download them")
    if not found:
        raise DataError(f"{name} has no row with a picture ({len(missing) + len(notes):,} without); check the columns")
    return assemble(found, root=root, kind=KIND, missing=missing, notes=notes)


def _rows(split: str, data: Any, name: str) -> _Rows:
    """Which columns of a split are pictures and captions.

    Raises:
        DataError: none are; lists the columns there are.
    """
    from datasets import Image, Value  # noqa: PLC0415

    def holds(feature: object) -> bool:
        is_binary = isinstance(feature, Value) and feature.dtype in {"binary", "large_binary"}
        return isinstance(feature, Image) or is_binary or (isinstance(feature, dict) and "bytes" in feature)

    names = list(data.column_names)
    lower = {column.lower(): column for column in names}
    holding = [column for column in names if holds(data.features[column])]
    preferred = [lower[column] for column in IMAGE_NAMES if lower.get(column) in holding]
    image = next(iter(preferred or holding), None)
    wanted = [column for column in names if column.lower() in {*CAPTION_NAMES, "split"} and column != image]
    if image is None:
        columns = find_columns(names)
    else:
        others = find_columns(["image", *wanted])
        columns = None if others is None else Columns(image, others.caption, others.split)
    if columns is None:
        raise DataError(
            f"{name}, split {split}: no columns for a picture and its caption among {', '.join(names)}; "
            "rename them to image and caption"
        )
    return _Rows(split, data, columns, holds_pictures=image is not None)


def _texts(rows: _Rows, *also: str) -> Iterator[tuple[int, tuple[str, ...], str, Mapping[str, Any]]]:
    """(index, captions, split, the columns asked for) of each row, without touching the pictures."""
    columns = [rows.columns.caption, *([rows.columns.split] if rows.columns.split else []), *also]
    index = 0
    for batch in rows.data.select_columns(columns).iter(batch_size=1000):
        for row in (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)):
            value = row[rows.columns.caption]
            texts = [value] if isinstance(value, str) else [] if value is None else value
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise DataError(
                    f"split {rows.name}, row {index}: {rows.columns.caption} {str(value)[:60]!r} is no text or texts"
                )
            stated = split_word(str(row[rows.columns.split])) if rows.columns.split else ""
            yield index, tuple(one_line(text) for text in texts), stated or rows.name, row
            index += 1


def _named(rows: _Rows, pictures: Pictures, missing: list[str], name: str) -> Iterator[Found]:
    captions: dict[tuple[str, str], list[str]] = {}
    for index, texts, split, row in _texts(rows, rows.columns.image):
        listed = row[rows.columns.image]
        if not isinstance(listed, str) or not listed.strip():
            raise DataError(f"{name}, row {index} has {rows.columns.image} {listed!r}, not the name of a picture")
        image = pictures.find(listed)
        if image is None:
            missing.append(listed)
        else:
            captions.setdefault((image, split), []).extend(texts)
    for (image, split), together in captions.items():
        yield Found(image, tuple(together), split=split)


def _written(rows: _Rows, unpack_to: Path, notes: list[Note]) -> Iterator[Found]:
    """Each row with its picture in a file under `unpack_to`/split, which an earlier run may have written."""
    mark = unpack_to / rows.name / _MARK
    files, left_out = _earlier(mark, rows.data) or _write(rows, mark)
    notes.extend(Note(reason, f"{rows.name}/{index}") for index, reason in left_out.items())
    for index, captions, split, _ in _texts(rows):
        if index in files:
            yield Found(f"{rows.name}/{files[index]}", captions, split=split)


def _earlier(mark: Path, data: Any) -> tuple[dict[int, str], dict[int, str]] | None:
    """(index -> file, index -> why it has none), if all files of the same data set are still there."""
    try:
        known = json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if known.get("fingerprint") != data._fingerprint or known.get("rows") != len(data):
        return None
    left_out = {int(index): str(reason) for index, reason in known["left_out"].items()}
    by_stem = {path.rsplit(".", 1)[0]: path for path in Pictures(mark.parent).paths}
    files = {index: by_stem[stem] for index in range(len(data)) if (stem := _stem(index)) in by_stem}
    return (files, left_out) if files.keys() | left_out.keys() == set(range(len(data))) else None


def _write(rows: _Rows, mark: Path) -> tuple[dict[int, str], dict[int, str]]:
    from datasets import Image  # noqa: PLC0415

    data = rows.data.select_columns([rows.columns.image])
    if isinstance(data.features[rows.columns.image], Image):
        data = data.cast_column(rows.columns.image, Image(decode=False))
    files: dict[int, str] = {}
    left_out: dict[int, str] = {}
    index = 0
    for batch in data.iter(batch_size=64):
        for value in batch[rows.columns.image]:
            content, reason = _bytes(value)
            suffix = _suffix(content)
            if content is None or suffix is None:
                left_out[index] = reason or "not a known kind of picture"
            else:
                files[index] = f"{_stem(index)}{suffix}"
                _put(mark.parent / files[index], content)
            index += 1
    mark.parent.mkdir(parents=True, exist_ok=True)
    write_json(mark, {"fingerprint": rows.data._fingerprint, "rows": index, "left_out": left_out})
    return files, left_out


def _stem(index: int) -> str:
    return f"{index // _PER_FOLDER:05d}/{index:09d}"


def _bytes(value: object) -> tuple[bytes | None, str]:
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
        if content is None and isinstance(path, str):
            try:
                return Path(path).read_bytes(), ""
            except OSError:
                return None, "picture not on disk"
        value = content
    return (value, "") if isinstance(value, bytes) else (None, "row without a picture")


def _suffix(content: bytes | None) -> str | None:
    if content is None:
        return None
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for start, suffix in _SUFFIXES if content.startswith(start)), None)


def _put(path: Path, content: bytes) -> None:
    """Write a picture whole, unless it is there; the same row with another suffix is an older one and goes."""
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_bytes(content)
    for older in path.parent.glob(f"{path.stem}.*"):
        older.unlink()
    aside.replace(path)
