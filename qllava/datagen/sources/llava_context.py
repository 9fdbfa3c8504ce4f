"""LLaVA's context files: JSON lines of `{id, image, captions, instances: [{category, bbox}]}`.

Boxes are [x1, y1, x2, y2] from 0 to 1. The file lists what was found and no vocabulary of what was looked for, so its
scenes are not exhaustive: a category that a picture does not list may still be in it. It knows no crowds either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qllava.datagen.json_records import Record, json_records
from qllava.datagen.sources.assembly import Found, assemble, one_line
from qllava.datagen.sources.coco_json import clean_name
from qllava.datagen.sources.pictures import Pictures
from qllava.datagen.sources.scene import Instance, Note, Source
from qllava.errors import DataError
from qllava.types import Box

KIND = "LLaVA context"
_ROUNDING = 0.001
"""The files have three decimals: a box may stand over the border by one of them."""


@dataclass(slots=True)
class _Growing:
    """What is known while the files are read."""

    found: dict[str, Found] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    categories: dict[str, str] = field(default_factory=dict)


def is_context(record: Record) -> bool:
    """Whether a first record is that of a context file."""
    return "image" in record and "instances" in record


def read_context(images: Path, files: Mapping[str, Path], *, leave_out: Path | None = None) -> Source:
    """Read context files, by the split they are of ("" for none).

    Raises:
        DataError: an entry that does not fit the schema, boxes in pixels, or not one picture is on disk.
    """
    pictures = Pictures(images, leave_out)
    growing = _Growing()
    for split, path in files.items():
        for where, record in json_records(path):
            _add(record, where, split, pictures, growing)
    if not growing.found:
        names = ", ".join(str(path) for path in files.values())
        raise DataError(
            f"none of the {len(growing.missing):,} pictures in {names} is below {images} "
            f"(looked for {next(iter(growing.missing), 'none')}); name their folder with --images"
        )
    return assemble(
        growing.found.values(),
        root=images,
        kind=KIND,
        exhaustive=False,
        missing=growing.missing,
        notes=growing.notes,
    )


def _add(record: Record, where: str, split: str, pictures: Pictures, growing: _Growing) -> None:
    listed = record.get("image")
    if not isinstance(listed, str) or not listed.strip():
        raise DataError(f"{where} has image {listed!r}, not the name of a picture")
    captions = record.get("captions", [])
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise DataError(f"{where} has captions {str(captions)[:60]!r}; a list of texts is needed")
    entries = record.get("instances", [])
    if not isinstance(entries, list):
        raise DataError(f"{where} has instances {str(entries)[:60]!r}; a list of objects is needed")
    instances = tuple(_instance(entry, where) for entry in entries)
    image = pictures.find(listed)
    if image is None:
        growing.missing.append(listed)
        return
    growing.categories.update((instance.category, "") for instance in instances)
    one = Found(image, tuple(one_line(text) for text in captions), instances, split, growing.categories)
    other = growing.found.setdefault(image, one)
    if other is not one:
        if (other.captions, other.instances) != (one.captions, one.instances):
            raise DataError(f"{where} lists {listed} again with other captions or boxes; keep one entry a picture")
        growing.notes.append(Note("listed twice", image, where))


def _instance(entry: object, where: str) -> Instance:
    if not isinstance(entry, dict):
        raise DataError(f"{where} has instance {str(entry)[:60]!r}; an object with category and bbox is needed")
    category = entry.get("category")
    name = clean_name(category) if isinstance(category, str) else ""
    if not name or "<" in name:
        raise DataError(f"{where} has category {category!r}; give it plain words")
    return Instance(name, _box(entry.get("bbox"), name, where), bool(entry.get("iscrowd", 0)))


def _box(bbox: object, category: str, where: str) -> Box:
    if not isinstance(bbox, Sequence) or len(bbox) != 4 or not all(_number(value) for value in bbox):
        raise DataError(f"{where} has bbox {bbox!r} of {category}; it is [x1, y1, x2, y2] from 0 to 1")
    x1, y1, x2, y2 = bbox
    if max(bbox) > 1 + _ROUNDING:
        raise DataError(
            f"{where} has bbox {bbox!r} of {category} in pixels; "
            "divide x1 and x2 by the picture's width and y1 and y2 by its height"
        )
    if min(bbox) < -_ROUNDING or x2 < x1 or y2 < y1:
        raise DataError(
            f"{where} has bbox {bbox!r} of {category}, whose corners are not top left and bottom right; "
            "it is [x1, y1, x2, y2] from 0 to 1"
        )
    return Box(*(min(1.0, max(0.0, float(value))) for value in bbox))


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
