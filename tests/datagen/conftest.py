"""Small COCO folders made in the test."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

# (category, [x, y, width, height] in pixels of a 100 x 100 picture)
Labelled = tuple[str, list[float]]
CATEGORIES = {"circle": "shape", "square": "shape", "triangle": "shape", "dog": "animal", "person": "person"}


def coco_split(
    folder: Path,
    split: str,
    pictures: Sequence[tuple[Sequence[str], Sequence[Labelled]]],
    *,
    first: int = 1,
    crowds: Sequence[int] = (),
    skip: Sequence[int] = (),
    place: str | None = None,
) -> None:
    """Write one split: captions and labels per picture; `skip` leaves picture files out, `crowds` marks label ids."""
    names = list(CATEGORIES)
    images: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    where = folder / (split if place is None else place)
    where.mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for index, (texts, labels) in enumerate(pictures, start=first):
        images.append({"id": index, "file_name": f"{index:012d}.jpg", "width": 100, "height": 100})
        if index not in skip:
            (where / f"{index:012d}.jpg").write_bytes(b"jpeg")
        for category, bbox in labels:
            label = {"id": len(instances) + 1, "image_id": index, "category_id": names.index(category) + 1}
            instances.append(label | {"bbox": bbox, "iscrowd": int(label["id"] in crowds), "segmentation": [[0, 0]]})
        captions += [{"id": len(captions) + n, "image_id": index, "caption": text} for n, text in enumerate(texts)]
    categories = [
        {"id": number, "name": name, "supercategory": CATEGORIES[name]} for number, name in enumerate(names, start=1)
    ]
    content = {"images": images, "annotations": instances, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    content = {"images": images, "annotations": captions}
    (folder / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))


SCENES: list[tuple[list[str], list[Labelled]]] = [
    (
        ["a large red circle on the left and a small blue square at the top right"],
        [("circle", [5, 40, 30, 30]), ("square", [75, 5, 15, 15])],
    ),
    (["two green circles and a black triangle"], [("circle", [5, 5, 20, 20]), ("circle", [70, 70, 20, 20])]),
    (["a purple square"], [("square", [40, 40, 20, 20])]),
    (["a yellow triangle on the right"], [("triangle", [75, 40, 20, 20])]),
    ([], [("dog", [10, 60, 20, 20])]),
    (["nothing but sky"], []),
]


@pytest.fixture
def split() -> Callable[..., None]:
    """The writer of one split."""
    return coco_split


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A folder with train2017 (12 pictures) and val2017 (6)."""
    folder = tmp_path / "coco"
    coco_split(folder, "train2017", SCENES * 2)
    coco_split(folder, "val2017", SCENES, first=101)
    return folder
