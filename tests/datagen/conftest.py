"""Small COCO folders made in the test."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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


def many_pictures(folder: Path, number: int) -> Path:
    """A folder with `number` training pictures that differ in their captions, and one held out."""
    labels: list[Labelled] = [("dog", [5, 5, 20, 20]), ("circle", [70, 70, 20, 20])]
    coco_split(folder, "train2017", [([f"a dog and circle number {n}"], labels) for n in range(number)])
    coco_split(folder, "val2017", [(["a dog and a circle"], labels)], first=number + 1)
    return folder


class TeacherServer:
    """A server process, and what it wrote down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **plan: Any) -> str:
        """Start it (again); returns its base URL. A second start keeps the address."""
        self.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        port = self.folder / "port"
        if port.exists():
            plan["port"] = int(port.read_text())
            port.unlink()
        (self.folder / "plan.json").write_text(json.dumps(plan))
        script = Path(__file__).with_name("teacher_server.py")
        self._process = subprocess.Popen([sys.executable, str(script), str(self.folder)])
        for _ in range(1000):
            if port.exists():
                return f"http://127.0.0.1:{port.read_text()}/v1"
            time.sleep(0.01)
        raise RuntimeError("the server did not start")

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log(self) -> list[dict[str, Any]]:
        """One entry for each request."""
        return [json.loads(line) for line in (self.folder / "log.jsonl").read_text().splitlines()]

    def outcomes(self) -> Counter[str]:
        """How often what came back."""
        return Counter(str(entry["outcome"]) for entry in self.log())

    def answered(self) -> Counter[str]:
        """How often each request was answered."""
        return Counter(str(entry["key"]) for entry in self.log() if entry["outcome"] == "answered")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TeacherServer]:
    """A teacher server, not started yet; no key and no address of the machine's owner reach the tests."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    teacher = TeacherServer(tmp_path / "server")
    yield teacher
    teacher.stop()
