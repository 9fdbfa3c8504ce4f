"""What every reader hands over: pictures with what is known about them, and what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qllava.types import Box

NO_CATEGORIES: Mapping[str, str] = MappingProxyType({})
"""The categories of a source that has no boxes; one object, so that all its scenes share a vocabulary."""


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

    `image` is relative to the image root; `categories` maps every category of the source to its group
    ("dog" -> "animal", or ""). `exhaustive` says that each of them was looked for in every picture, so that one
    without a box is absent; LLaVA's context files list only what was found, and nothing follows from their silence.
    """

    id: str
    image: str
    captions: tuple[str, ...]
    instances: tuple[Instance, ...]
    categories: Mapping[str, str]
    held_out: bool = False
    exhaustive: bool = True

    def record(self) -> dict[str, Any]:
        """Captions and boxes as plain JSON values: what a teacher could know, and what the gallery shows."""
        boxes = []
        for instance in self.instances:
            box = instance.box
            corners = [round(side, 3) for side in (box.x1, box.y1, box.x2, box.y2)]
            crowd = {"crowd": True} if instance.crowd else {}
            boxes.append({"category": instance.category, "box": corners} | crowd)
        return {"captions": list(self.captions), "boxes": boxes}


@dataclass(frozen=True, slots=True)
class Note:
    """Something that was read and left out: `reason` is what is counted, `name` the picture, file or row it is."""

    reason: str
    name: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """What was read: its scenes in the order of their image paths, and what is listed but not there.

    `missing` are file names; `absent_splits` maps a split without any picture on disk to its number of listed ones.
    `held_out_rule` says in words how the held-out pictures were chosen, `kind` what was read; `notes` are the things
    left out for another reason than a missing picture.
    """

    root: Path
    scenes: tuple[Scene, ...]
    missing: tuple[str, ...]
    absent_splits: Mapping[str, int]
    held_out_rule: str
    kind: str = "COCO"
    notes: tuple[Note, ...] = ()

    @property
    def annotated(self) -> bool:
        """Whether any picture has a caption or a box; without, only a teacher that sees can say anything."""
        return any(scene.captions or scene.instances for scene in self.scenes)

    @property
    def captions_only(self) -> bool:
        """Whether it is of a kind that has no boxes and lists no objects: nothing bears a caption out."""
        return all(scene.categories is NO_CATEGORIES for scene in self.scenes)

    @property
    def note_counts(self) -> dict[str, int]:
        """How many things were left out, by reason."""
        return dict(sorted(Counter(note.reason for note in self.notes).items()))
