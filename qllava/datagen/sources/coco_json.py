"""COCO's annotation JSON: `instances_*.json` and `captions_*.json`, joined into pictures per split."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from qllava.datagen.sources.assembly import one_line
from qllava.errors import DataError
from qllava.types import Box

_PREFIXES = ("instances_", "captions_")


@dataclass(frozen=True, slots=True)
class Label:
    """One annotation; `area` is that of its outline as a share of the picture, None where the file has none."""

    category: str
    box: Box
    crowd: bool
    area: float | None


@dataclass(frozen=True, slots=True)
class Picture:
    """One listed picture; no captions and no labels are both normal."""

    file_name: str
    captions: tuple[str, ...]
    labels: tuple[Label, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """The pictures that a split's files list; `categories` maps each to its group, empty without instances."""

    name: str
    pictures: tuple[Picture, ...]
    categories: Mapping[str, str]


@dataclass(slots=True)
class _Growing:
    """A split while its files are read."""

    captions: dict[str, list[str]] = field(default_factory=dict)
    labels: dict[str, list[Label]] = field(default_factory=dict)
    categories: dict[str, str] = field(default_factory=dict)


def read_splits(files: Sequence[Path]) -> list[Split]:
    """Read annotation files; those with the same split name (`instances_X`, `captions_X`) are one split.

    Raises:
        DataError: one line naming the file, the entry and what is wrong with it.
    """
    growing: dict[str, _Growing] = {}
    for path in files:
        name = path.stem
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        _read_file(path, growing.setdefault(name, _Growing()))
    return [
        Split(
            name=name,
            pictures=tuple(
                Picture(file_name, tuple(captions), tuple(split.labels.get(file_name, ())))
                for file_name, captions in sorted(split.captions.items())
            ),
            categories=dict(sorted(split.categories.items())),
        )
        for name, split in sorted(growing.items())
    ]


def _read_file(path: Path, split: _Growing) -> None:
    content = _load(path)
    images: dict[Any, Mapping[str, Any]] = {}
    for entry in _entries(content, "images", path):
        _need(entry, ("id", "file_name"), "images", path)
        if not isinstance(entry["file_name"], str):
            raise DataError(f"{path}: image id {entry['id']!r} has file_name {entry['file_name']!r}, not a name")
        images[_key(entry["id"], path)] = entry
        split.captions.setdefault(entry["file_name"], [])
    names, groups = _categories(content, path)
    split.categories.update(groups)
    for entry in _entries(content, "annotations", path):
        _need(entry, ("image_id",), "annotations", path)
        image = images.get(_key(entry["image_id"], path))
        what = f"{path}: annotation {entry.get('id', '?')}"
        if image is None:
            raise DataError(f"{what} names image id {entry['image_id']!r}, which `images` does not list")
        if "caption" in entry:
            if not isinstance(entry["caption"], str):
                raise DataError(f"{what} has caption {entry['caption']!r}, not a text")
            split.captions[image["file_name"]].append(one_line(entry["caption"]))
        if "bbox" in entry:
            label = _label(entry, image, names, what)
            split.labels.setdefault(image["file_name"], []).append(label)


def _load(path: Path) -> Mapping[str, Any]:
    def slim(entry: dict[str, Any]) -> dict[str, Any]:
        # Outlines are nine tenths of COCO's instances and are not used here.
        entry.pop("segmentation", None)
        return entry

    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_hook=slim)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is not JSON (line {error.lineno}, column {error.colno}: {error.msg}); download it again"
        ) from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not JSON text in UTF-8; download it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(content, dict) or "images" not in content or "annotations" not in content:
        raise DataError(f"{path} is not COCO's format: it needs the lists `images` and `annotations`")
    return content


def _entries(content: Mapping[str, Any], key: str, path: Path) -> list[Mapping[str, Any]]:
    entries = content.get(key, [])
    if not isinstance(entries, list) or any(not isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path}: `{key}` is not a list of objects")
    return entries


def _need(entry: Mapping[str, Any], keys: tuple[str, ...], where: str, path: Path) -> None:
    for key in keys:
        if key not in entry:
            raise DataError(f"{path}: an entry of `{where}` (id {entry.get('id', '?')}) has no `{key}`")


def _key(value: object, path: Path) -> int | str:
    if isinstance(value, int | str):
        return value
    raise DataError(f"{path}: image id {value!r} is neither a number nor a text")


def _categories(content: Mapping[str, Any], path: Path) -> tuple[dict[Any, str], dict[str, str]]:
    """(category id -> name, name -> group)."""
    ids: dict[Any, str] = {}
    groups: dict[str, str] = {}
    for entry in _entries(content, "categories", path):
        _need(entry, ("id", "name"), "categories", path)
        name = clean_name(str(entry["name"]))
        if not name or "<" in name:
            raise DataError(f"{path}: category id {entry['id']!r} is named {entry['name']!r}; give it plain words")
        ids[_key(entry["id"], path)] = name
        groups[name] = clean_name(str(entry.get("supercategory", "")))
    return ids, {name: "" if group == name else group for name, group in groups.items()}


def clean_name(name: str) -> str:
    """`Stop_Sign` -> `stop sign`: as it would stand in a sentence."""
    return " ".join(name.replace("_", " ").replace("-", " ").split()).lower()


def _label(entry: Mapping[str, Any], image: Mapping[str, Any], names: Mapping[Any, str], what: str) -> Label:
    identity = entry.get("category_id")
    category = names.get(identity) if isinstance(identity, int | str) else None
    if category is None:
        raise DataError(f"{what} has category_id {identity!r}, which `categories` does not list")
    width, height = image.get("width"), image.get("height")
    if not _number(width) or not _number(height) or width <= 0 or height <= 0:
        raise DataError(
            f"{what}: image {image['file_name']} has width {width!r} and height {height!r}; boxes need both in pixels"
        )
    bbox = entry["bbox"]
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_number(value) for value in bbox):
        raise DataError(f"{what} has bbox {bbox!r}; COCO's is [x, y, width, height] in pixels")
    x, y, w, h = bbox
    box = Box(_share(x, width), _share(y, height), _share(x + w, width), _share(y + h, height))
    area = entry.get("area")
    share = area / (width * height) if _number(area) and area > 0 else None
    return Label(category, box, bool(entry.get("iscrowd", 0)), share)


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _share(value: float, whole: float) -> float:
    return min(1.0, max(0.0, value / whole))
