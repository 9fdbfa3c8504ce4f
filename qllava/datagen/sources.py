"""COCO folders: pictures, captions and boxes become scenes, some of them held out.

Layout: pictures in the given folder or in split folders below it (train2017/, val2017/, any names); annotations as
`instances_SPLIT.json` and `captions_SPLIT.json` in `annotations/` inside or beside that folder.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from qllava.datagen.coco import Split, read_splits
from qllava.errors import DataError, UsageError
from qllava.types import Box

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
HELD_OUT_SHARE = 0.01
HELD_OUT_LEAST = 20
LAYOUT = (
    "COCO's layout is coco/train2017/*.jpg (118,287 images, 18 GB), coco/val2017/*.jpg (5,000 images, 1 GB) and "
    "coco/annotations/*.json (241 MB), to be had from https://cocodataset.org/#download"
)


@dataclass(frozen=True, slots=True)
class Instance:
    """One labelled object.

    `crowd` (COCO's iscrowd) means that its box holds an unknown number of them; `area` is that of the outline as a
    share of the picture, None where only the box is known.
    """

    category: str
    box: Box
    crowd: bool = False
    area: float | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture with what is known about it.

    `image` is relative to the image root; `categories` maps every category that was looked for to its group
    ("dog" -> "animal", or "").
    """

    id: str
    image: str
    captions: tuple[str, ...]
    instances: tuple[Instance, ...]
    categories: Mapping[str, str]
    held_out: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """A folder that was read: its scenes in the order of their image paths, and what is listed but not on disk.

    `missing` are file names; `absent_splits` maps a split without any picture on disk to its number of listed ones.
    `held_out_rule` says in words how the held-out pictures were chosen.
    """

    root: Path
    scenes: tuple[Scene, ...]
    missing: tuple[str, ...]
    absent_splits: Mapping[str, int]
    held_out_rule: str


def read_coco(images: Path, annotations: Path | None = None) -> Source:
    """Read a COCO folder.

    Raises:
        UsageError: the folder or its annotations are not there; says where to get COCO and the layout.
        DataError: annotations that cannot be read, or not one picture of theirs is on disk.
    """
    if not images.is_dir():
        raise UsageError(f"--images {images}: no such folder; {LAYOUT}")
    files = annotation_files(images, annotations)
    splits = read_splits(files)
    on_disk = _Pictures(images, {split.name for split in splits})
    scenes: dict[str, dict[str, Scene]] = {}
    missing: list[str] = []
    absent: dict[str, int] = {}
    for split in splits:
        found, lacking = _scenes(split, on_disk)
        if found:
            scenes[split.name] = found
            missing.extend(lacking)
        else:
            absent[split.name] = len(lacking)
    if not scenes:
        listed = sum(absent.values())
        example = next((p.file_name for split in splits for p in split.pictures), "none")
        raise DataError(
            f"{images}: none of the {listed:,} pictures in {', '.join(path.name for path in files)} is on disk "
            f"(looked for {example}); {LAYOUT}"
        )
    held, rule = _held_out(scenes)
    by_image = {scene.image: scene for found in scenes.values() for scene in found.values()}
    ids = _ids(sorted(by_image))
    ordered = tuple(replace(by_image[image], id=identity, held_out=image in held) for image, identity in ids.items())
    return Source(root=images, scenes=ordered, missing=tuple(sorted(missing)), absent_splits=absent, held_out_rule=rule)


def annotation_files(images: Path, annotations: Path | None) -> list[Path]:
    """The annotation files to read, sorted.

    Raises:
        UsageError: none is found; names the folders that were looked in.
    """
    if annotations is not None and annotations.is_file():
        return [annotations]
    if annotations is not None and not annotations.is_dir():
        raise UsageError(f"--annotations {annotations}: no such file or folder; {LAYOUT}")
    places = [annotations] if annotations else [images / "annotations", images.resolve().parent / "annotations"]
    for place in places:
        found = sorted((*place.glob("instances_*.json"), *place.glob("captions_*.json")))
        if found:
            return found
    looked = " or ".join(str(place) for place in places)
    raise UsageError(
        f"no instances_*.json or captions_*.json in {looked}; the template teacher speaks from annotations, "
        f"name them with --annotations PATH; {LAYOUT}"
    )


class _Pictures:
    """The pictures below a folder, found by split and file name without touching the disk again."""

    def __init__(self, root: Path, splits: Set[str]) -> None:
        # coco/train2017 was named itself: its pictures are of no other split, whatever their names.
        name = root.resolve().name
        self._only = name if name in splits else None
        self.paths: set[str] = set()
        self._folders: set[str] = set()
        self._by_name: dict[str, list[str]] = {}
        for folder, inside, names in os.walk(root, followlinks=True):
            inside[:] = sorted(name for name in inside if not name.startswith(".") and name != "annotations")
            prefix = Path(folder).relative_to(root)
            self._folders.update(prefix.parts)
            for name in names:
                if os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES:  # noqa: PTH122 - 118,287 times
                    path = (prefix / name).as_posix()
                    self.paths.add(path)
                    self._by_name.setdefault(name, []).append(path)

    def find(self, split: str, file_name: str) -> str | None:
        """The picture's path relative to the root, or None. A same-named picture of another split is not it."""
        if self._only not in (None, split):
            return None
        name = file_name.replace("\\", "/").removeprefix("./")
        candidates = (f"{split}/{name}", f"images/{split}/{name}", f"{split}/images/{name}", name, f"images/{name}")
        for path in candidates:
            if path in self.paths:
                return path
        if "/" in name or split in self._folders:
            return None
        elsewhere = self._by_name.get(name, [])
        return elsewhere[0] if len(elsewhere) == 1 else None


def _scenes(split: Split, on_disk: _Pictures) -> tuple[dict[str, Scene], list[str]]:
    found: dict[str, Scene] = {}
    lacking: list[str] = []
    for picture in split.pictures:
        image = on_disk.find(split.name, picture.file_name)
        if image is None:
            lacking.append(f"{split.name}/{picture.file_name}")
            continue
        found[image] = Scene(
            id=image,
            image=image,
            captions=picture.captions,
            instances=tuple(Instance(label.category, label.box, label.crowd, label.area) for label in picture.labels),
            categories=split.categories,
        )
    return found, lacking


def _held_out(scenes: Mapping[str, Mapping[str, Scene]]) -> tuple[set[str], str]:
    """The held-out image paths and the rule in words."""
    tests = [name for name in scenes if name.lower().startswith(("val", "test"))]
    if tests and len(tests) < len(scenes):
        return {image for name in tests for image in scenes[name]}, f"the pictures of {', '.join(sorted(tests))}"
    images = [image for found in scenes.values() for image in found]
    wanted = max(HELD_OUT_LEAST, round(len(images) * HELD_OUT_SHARE))
    chosen = sorted(images, key=_file_name_hash)[: min(wanted, len(images) // 2)]
    return set(chosen), f"1 % of the pictures by hash of the file name, at least {HELD_OUT_LEAST}, at most half"


def _file_name_hash(image: str) -> tuple[str, str]:
    name = image.rsplit("/", 1)[-1]
    return hashlib.sha256(name.encode()).hexdigest(), image


def _ids(images: Sequence[str]) -> dict[str, str]:
    """Image path -> id: the path without its suffix, unless two pictures differ in the suffix alone."""
    stems = [image.rsplit(".", 1)[0] for image in images]
    times = Counter(stems)
    return {image: stem if times[stem] == 1 else image for image, stem in zip(images, stems, strict=True)}
