"""From pictures with their notes to a source: ids, order, and which pictures are held out.

Held out are the splits whose names begin with val or test; where there are none, or nothing else, 1 % of the pictures
by the hash of their file names.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qllava.datagen.sources.scene import NO_CATEGORIES, Instance, Note, Scene, Source

HELD_OUT_SHARE = 0.01
HELD_OUT_LEAST = 20
_SPLIT_FOLDER = re.compile(r"(train|val|test)(ing|id|idation)?([-_ ]?\d+)?")
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True, slots=True)
class Found:
    """One picture as a reader found it, in a split or in none (""); its path relative to the root is its identity.

    `categories`: see `Scene`; one object for all pictures that share a vocabulary.
    """

    image: str
    captions: tuple[str, ...] = ()
    instances: tuple[Instance, ...] = ()
    split: str = ""
    categories: Mapping[str, str] = field(default_factory=lambda: NO_CATEGORIES)


def assemble(
    found: Iterable[Found],
    *,
    root: Path,
    kind: str,
    exhaustive: bool = True,
    missing: Iterable[str] = (),
    absent_splits: Mapping[str, int] | None = None,
    notes: Iterable[Note] = (),
) -> Source:
    """Give every picture its id, hold some out and put all in order.

    A picture without a split is in that of its folder (`val2017/1.jpg`). One that two splits list stays in the one
    that is held out, else in the first; the other listing becomes a note.
    """
    by_image: dict[str, Found] = {}
    left_out: list[Note] = []
    for one in found:
        if not _is_unicode(one.image):
            left_out.append(Note("file name is not UTF-8", one.image.encode("utf-8", "backslashreplace").decode()))
            continue
        other = by_image.setdefault(one.image, one)
        if other is not one:
            kept, left = (one, other) if _is_test(split_of(one)) and not _is_test(split_of(other)) else (other, one)
            by_image[one.image] = kept
            where = [split_of(listed) or "no split" for listed in (kept, left)]
            left_out.append(Note("listed in two splits", one.image, f"kept in {where[0]}, not {where[1]}"))
    held, rule = _held_out(by_image)
    scenes = tuple(
        Scene(
            id=identity,
            image=image,
            captions=by_image[image].captions,
            instances=by_image[image].instances,
            categories=by_image[image].categories,
            held_out=image in held,
            exhaustive=exhaustive,
        )
        for image, identity in _ids(sorted(by_image)).items()
    )
    return Source(
        root=root,
        scenes=scenes,
        missing=tuple(sorted(missing)),
        absent_splits=dict(absent_splits or {}),
        held_out_rule=rule,
        kind=kind,
        notes=(*notes, *left_out),  # only now: a reader that yields writes its notes on the way
    )


def split_of(found: Found) -> str:
    """The split that was stated, else the nearest folder whose name is one."""
    if found.split:
        return found.split
    folders = found.image.split("/")[:-1]
    return next((name for name in reversed(folders) if _SPLIT_FOLDER.fullmatch(name.lower())), "")


def split_word(name: str) -> str:
    """The split that a file's name or a column's value speaks of: `captions_valid.csv` -> `val`; "" for none."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), "")


def one_line(text: str) -> str:
    """A caption with every run of white space as one space, and `?` for half a character (a lone surrogate)."""
    return " ".join(text.split()).encode("utf-8", "replace").decode()


def _is_unicode(name: str) -> bool:
    """Whether a name can stand in a JSON file; Linux lets a file name be any bytes."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _is_test(split: str) -> bool:
    return split.lower().startswith(("val", "test"))


def _held_out(by_image: Mapping[str, Found]) -> tuple[set[str], str]:
    """The held-out image paths and the rule in words."""
    splits = {image: split_of(found) for image, found in by_image.items()}
    tests = sorted({split for split in splits.values() if _is_test(split)})
    held = {image for image, split in splits.items() if _is_test(split)}
    if held and len(held) < len(by_image):
        return held, f"the pictures of {', '.join(tests)}"
    wanted = max(HELD_OUT_LEAST, round(len(by_image) * HELD_OUT_SHARE))
    chosen = sorted(by_image, key=_file_name_hash)[: min(wanted, len(by_image) // 2)]
    return set(chosen), f"1 % of the pictures by hash of the file name, at least {HELD_OUT_LEAST}, at most half"


def _file_name_hash(image: str) -> tuple[str, str]:
    name = image.rsplit("/", 1)[-1]
    return hashlib.sha256(name.encode()).hexdigest(), image


def _ids(images: Sequence[str]) -> dict[str, str]:
    """Image path -> id: the path without its suffix, unless two pictures differ in the suffix alone."""
    stems = [image.rsplit(".", 1)[0] for image in images]
    times = Counter(stems)
    return {image: stem if times[stem] == 1 else image for image, stem in zip(images, stems, strict=True)}
