"""Rendered scenes of coloured shapes, written as a true COCO folder: what `qllava demo` trains on.

A scene is one to three shapes on a light background. Which scenes may train and which are held out is decided by a
hash of the configuration, not by the stream of random numbers: no seed ever puts a held-out scene into a train split,
nor into what `examples/train_scene_clip.py` shows the vision tower.
"""

from __future__ import annotations

import json
import math
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageDraw

from qllava.errors import UsageError

Split = Literal["train", "heldout"]
Point = tuple[float, float]

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 38, 36),
    "orange": (250, 140, 22),
    "yellow": (240, 212, 30),
    "green": (40, 152, 64),
    "blue": (36, 92, 212),
    "purple": (126, 48, 164),
    "pink": (246, 138, 186),
    "black": (28, 28, 32),
}
SHAPES = ("circle", "square", "triangle", "star")
SIZES: dict[str, tuple[float, float]] = {"small": (0.16, 0.19), "medium": (0.23, 0.26), "large": (0.31, 0.35)}

COCO_SIZE = 192
HELDOUT_SHARE = 8  # one configuration in eight is held out
_SUPERSAMPLE = 3
_MARGIN = 0.04  # of the picture: kept between two boxes, and between a centre and a border of thirds
_SUPERCATEGORIES = {"circle": "round", "square": "polygon", "triangle": "polygon", "star": "polygon"}
_COLUMNS = ("left", "", "right")
_ROWS = ("top", "", "bottom")


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One shape. `x`, `y`: centre of its box, `side`: side of its box; all as a share of the picture, 0-1."""

    shape: str
    color: str
    size: str
    x: float
    y: float
    side: float

    @property
    def name(self) -> str:
        """`red circle`, `small red circle`, `large red circle`: a medium size goes without saying."""
        return f"{self.color} {self.shape}" if self.size == "medium" else f"{self.size} {self.color} {self.shape}"

    @property
    def cell(self) -> tuple[int, int]:
        """(column, row) of the centre in a grid of thirds, each 0-2."""
        return min(2, int(self.x * 3)), min(2, int(self.y * 3))

    @property
    def place(self) -> str:
        """Where it lies, in words that follow a noun: `on the left`, `at the top right`, `in the middle`."""
        column, row = self.cell
        words = " ".join(word for word in (_ROWS[row], _COLUMNS[column]) if word)
        if not words:
            return "in the middle"
        return f"on the {words}" if row == 1 else f"at the {words}"


@dataclass(frozen=True, slots=True)
class Scene:
    """Shapes from left to right, and a background that fades from `background` (RGB, 0-255) by `shade` downwards."""

    objects: tuple[SceneObject, ...]
    background: tuple[int, int, int]
    shade: int

    @property
    def configuration(self) -> str:
        """Shape, colour, size and grid cell of every object: what makes two scenes the same."""
        parts = (f"{one.size} {one.color} {one.shape} {one.cell[0]}{one.cell[1]}" for one in self.objects)
        return "; ".join(sorted(parts))

    @property
    def split(self) -> Split:
        """The split this configuration belongs to, for every seed."""
        return "heldout" if zlib.crc32(self.configuration.encode()) % HELDOUT_SHARE == 0 else "train"


def random_scene(rng: random.Random, split: Split, *, objects: Sequence[int] = (1, 2, 2, 3, 3)) -> Scene:
    """Draw a scene of one split; `objects` lists the object counts to choose from, each 1-3.

    No two objects share shape and colour, or overlap, or have their centres in the same cell of a grid of thirds.
    """
    count = rng.choice(objects)
    while True:
        scene = _draw(rng, count)
        if scene is not None and scene.split == split:
            return scene


def outline(one: SceneObject) -> list[Point]:
    """The polygon of a shape, as shares of the picture, 0-1; a circle has 32 corners."""
    half = one.side / 2
    if one.shape == "square":
        unit = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
    elif one.shape == "triangle":
        unit = [(0.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
    elif one.shape == "circle":
        unit = [(math.cos(turn * math.tau / 32), math.sin(turn * math.tau / 32)) for turn in range(32)]
    else:
        unit = _star()
    return [(one.x + half * x, one.y + half * y) for x, y in unit]


def render_scene(scene: Scene, *, size: int) -> Image.Image:
    """The picture, RGB, `size` x `size` pixels, edges smoothed."""
    large = size * _SUPERSAMPLE
    light = Image.new("RGB", (size, size), scene.background)
    red, green, blue = (max(0, channel - scene.shade) for channel in scene.background)
    fade = Image.linear_gradient("L").resize((size, size))
    background = Image.composite(Image.new("RGB", (size, size), (red, green, blue)), light, fade)
    canvas = background.resize((large, large), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(canvas)
    for one in scene.objects:
        draw.polygon([(x * large, y * large) for x, y in outline(one)], fill=COLORS[one.color])
    return canvas.resize((size, size), Image.Resampling.BOX)


def captions(scene: Scene) -> list[str]:
    """Three captions that say the same in other words.

    Each names every object, from left to right, with its size unless medium, its colour directly before its shape, and
    its place.
    """
    things = _enumerate([f"{_with_article(one.name)} {one.place}" for one in scene.objects])
    return [things, f"There is {things}.", f"The picture shows {things}."]


def write_coco(folder: Path, *, train: int, heldout: int, seed: int) -> None:
    """Write `train` + `heldout` scenes (numbers of pictures) in COCO's own layout under `folder`.

    `train2017/000000000001.jpg` ..., `val2017/...` (192 x 192 pixels), and `annotations/` with
    `instances_{train,val}2017.json` (boxes, areas and polygons in pixels) and `captions_{train,val}2017.json`.
    Categories are the shapes; colours, sizes and places are told by the captions alone. The same arguments write the
    same bytes; no held-out configuration occurs in the train split.

    Raises:
        UsageError: a negative number of pictures.
    """
    if train < 0 or heldout < 0:
        raise UsageError(f"train={train}, heldout={heldout} pictures; give numbers of 0 or more")
    first = 1
    splits: tuple[tuple[str, Split, int], ...] = (("train2017", "train", train), ("val2017", "heldout", heldout))
    for name, split, count in splits:
        scenes = [random_scene(random.Random(f"{seed}/{split}/{index}"), split) for index in range(count)]  # noqa: S311
        _write_split(folder, name, scenes, first)
        first += count


def write_demo_image(path: Path, seed: int) -> None:
    """Write one larger held-out picture (448 x 448, a circle and two other shapes) as a JPEG or PNG by its suffix."""
    rng = random.Random(f"{seed}/demo")  # noqa: S311
    while True:
        scene = random_scene(rng, "heldout", objects=(3,))
        shapes, colors = ({one.shape for one in scene.objects}, {one.color for one in scene.objects})
        if len(shapes) == len(colors) == 3 and "circle" in shapes:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    render_scene(scene, size=448).save(path, quality=95, subsampling=0)


def _draw(rng: random.Random, count: int) -> Scene | None:
    """One try at a scene; None where objects overlap or look alike."""
    objects: list[SceneObject] = []
    cells = rng.sample([(column, row) for column in range(3) for row in range(3)], count)
    for column, row in cells:
        size = rng.choice(tuple(SIZES))
        side = rng.uniform(*SIZES[size])
        objects.append(
            SceneObject(
                shape=rng.choice(SHAPES),
                color=rng.choice(tuple(COLORS)),
                size=size,
                x=_place(rng, column, side),
                y=_place(rng, row, side),
                side=side,
            )
        )
    if len({(one.shape, one.color) for one in objects}) < count:
        return None
    if any(_touch(one, other) for index, one in enumerate(objects) for other in objects[:index]):
        return None
    background = tuple(rng.randint(226, 252) for _ in range(3))
    return Scene(
        objects=tuple(sorted(objects, key=lambda one: (one.x, one.y))),
        background=(background[0], background[1], background[2]),
        shade=rng.randint(0, 24),
    )


def _place(rng: random.Random, third: int, side: float) -> float:
    """A centre inside a third, clear of its borders, with the whole shape inside the picture."""
    low = max(third / 3 + (_MARGIN if third else 0.0), side / 2 + 0.01)
    high = min((third + 1) / 3 - (_MARGIN if third < 2 else 0.0), 1 - side / 2 - 0.01)
    return rng.uniform(low, high)


def _touch(one: SceneObject, other: SceneObject) -> bool:
    reach = (one.side + other.side) / 2 + _MARGIN
    return abs(one.x - other.x) < reach and abs(one.y - other.y) < reach


def _star() -> list[Point]:
    """A five-pointed star that fills the box from -1 to 1."""
    points = [
        (radius * math.sin(turn * math.tau / 10), -radius * math.cos(turn * math.tau / 10))
        for turn, radius in ((turn, 0.42 if turn % 2 else 1.0) for turn in range(10))
    ]
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    top, bottom = min(y for _, y in points), max(y for _, y in points)
    return [(2 * (x - left) / (right - left) - 1, 2 * (y - top) / (bottom - top) - 1) for x, y in points]


def _with_article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _enumerate(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _write_split(folder: Path, name: str, scenes: Sequence[Scene], first: int) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    for image_id, scene in enumerate(scenes, start=first):
        file_name = f"{image_id:012d}.jpg"
        render_scene(scene, size=COCO_SIZE).save(folder / name / file_name, quality=95, subsampling=0)
        images.append({"id": image_id, "file_name": file_name, "width": COCO_SIZE, "height": COCO_SIZE, "license": 1})
        instances += [_instance(one, image_id * 10 + index, image_id) for index, one in enumerate(scene.objects)]
        texts += [
            {"id": image_id * 10 + index, "image_id": image_id, "caption": caption}
            for index, caption in enumerate(captions(scene))
        ]
    info = {"description": f"qllava rendered scenes, {name}", "version": "1.0"}
    common = {"info": info, "licenses": [{"id": 1, "name": "Apache-2.0", "url": ""}], "images": images}
    categories = [
        {"supercategory": _SUPERCATEGORIES[shape], "id": index, "name": shape}
        for index, shape in enumerate(SHAPES, start=1)
    ]
    _dump(
        folder / "annotations" / f"instances_{name}.json", common | {"annotations": instances, "categories": categories}
    )
    _dump(folder / "annotations" / f"captions_{name}.json", common | {"annotations": texts})


def _instance(one: SceneObject, annotation_id: int, image_id: int) -> dict[str, Any]:
    """COCO's record of one object, in pixels."""
    points = [(x * COCO_SIZE, y * COCO_SIZE) for x, y in outline(one)]
    side = one.side * COCO_SIZE
    corner = (one.x * COCO_SIZE - side / 2, one.y * COCO_SIZE - side / 2)
    turned = [*points[1:], points[0]]
    area = abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(points, turned, strict=True))) / 2
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": SHAPES.index(one.shape) + 1,
        "bbox": [round(value, 2) for value in (*corner, side, side)],
        "area": round(area, 2),
        "iscrowd": 0,
        "segmentation": [[round(value, 2) for point in points for value in point]],
    }


def _dump(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
