"""COCO folders: pictures, captions and boxes.

Layout: pictures in the given folder or in split folders below it (train2017/, val2017/, any names); annotations as
`instances_SPLIT.json` and `captions_SPLIT.json` in `annotations/` inside or beside that folder.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from qllava.datagen.sources.assembly import Found, assemble
from qllava.datagen.sources.coco_json import Split, read_splits
from qllava.datagen.sources.pictures import Pictures
from qllava.datagen.sources.scene import Instance, Source
from qllava.errors import DataError, UsageError

LAYOUT = (
    "COCO's layout is coco/train2017/*.jpg (118,287 images, 18 GB), coco/val2017/*.jpg (5,000 images, 1 GB) and "
    "coco/annotations/*.json (241 MB), to be had from https://cocodataset.org/#download"
)


def read_coco(images: Path, annotations: Path | None = None, *, leave_out: Path | None = None) -> Source:
    """Read a COCO folder; pictures below `leave_out` are not its own.

    Raises:
        UsageError: the folder or its annotations are not there; says where to get COCO and the layout.
        DataError: annotations that cannot be read, or not one picture of theirs is on disk.
    """
    if not images.is_dir():
        raise UsageError(f"--images {images}: no such folder; {LAYOUT}")
    files = annotation_files(images, annotations)
    splits = read_splits(files)
    on_disk = _SplitPictures(images, {split.name for split in splits}, leave_out)
    found: list[Found] = []
    missing: list[str] = []
    absent: dict[str, int] = {}
    for split in splits:
        here, lacking = _found(split, on_disk)
        found.extend(here)
        if here:
            missing.extend(lacking)
        else:
            absent[split.name] = len(lacking)
    if not found:
        listed = sum(absent.values())
        example = next((p.file_name for split in splits for p in split.pictures), "none")
        raise DataError(
            f"{images}: none of the {listed:,} pictures in {', '.join(path.name for path in files)} is on disk "
            f"(looked for {example}); {LAYOUT}"
        )
    return assemble(found, root=images, kind="COCO", missing=missing, absent_splits=absent)


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
        found = split_files(place)
        if found:
            return found
    looked = " or ".join(str(place) for place in places)
    raise UsageError(
        f"no instances_*.json or captions_*.json in {looked}; the template teacher speaks from annotations, "
        f"name them with --annotations PATH; {LAYOUT}"
    )


def split_files(place: Path) -> list[Path]:
    """COCO's annotation files directly in a folder, sorted; none where there is no such folder."""
    return sorted((*place.glob("instances_*.json"), *place.glob("captions_*.json")))


class _SplitPictures:
    """The pictures below a folder, found by split and file name."""

    def __init__(self, root: Path, splits: Set[str], leave_out: Path | None) -> None:
        # coco/train2017 was named itself: its pictures are of no other split, whatever their names.
        name = root.resolve().name
        self._only = name if name in splits else None
        self._pictures = Pictures(root, leave_out)

    def find(self, split: str, file_name: str) -> str | None:
        """The picture's path relative to the root, or None. A same-named picture of another split is not it."""
        if self._only not in (None, split):
            return None
        name = file_name.replace("\\", "/").removeprefix("./")
        candidates = (f"{split}/{name}", f"images/{split}/{name}", f"{split}/images/{name}", name, f"images/{name}")
        for path in candidates:
            if path in self._pictures.paths:
                return path
        if "/" in name or split in self._pictures.folders:
            return None
        return self._pictures.named(name)


def _found(split: Split, on_disk: _SplitPictures) -> tuple[list[Found], list[str]]:
    found: dict[str, Found] = {}
    lacking: list[str] = []
    for picture in split.pictures:
        image = on_disk.find(split.name, picture.file_name)
        if image is None:
            lacking.append(f"{split.name}/{picture.file_name}")
            continue
        found[image] = Found(
            image=image,
            captions=picture.captions,
            instances=tuple(Instance(label.category, label.box, label.crowd, label.area) for label in picture.labels),
            split=split.name,
            categories=split.categories,
        )
    return list(found.values()), lacking
