"""LLaVA's context files: normalised boxes, no vocabulary, so nothing that is claimed absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qllava.datagen.captions import CaptionReader
from qllava.datagen.facts import extract_facts
from qllava.datagen.sources import Scene, read_source
from qllava.errors import DataError
from qllava.types import Box
from tests.datagen.sources.conftest import Touch

CAPTIONS = ["A dog sits near a cat.", "A dog."]
DOG = {"category": "dog", "bbox": [0.1, 0.25, 0.5, 1.0005]}
CAT = {"category": "Wine_Glass", "bbox": [0.6, 0.5, 0.75, 1]}


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def entry(image: str, captions: list[str] = CAPTIONS, *instances: dict[str, Any]) -> dict[str, Any]:
    return {"id": image, "image": image, "captions": captions, "instances": list(instances)}


def test_a_context_file_found_alone_in_the_folder(touch: Touch, tmp_path: Path) -> None:
    folder = touch("pictures", "a.jpg", "sub/b.jpg", "unlisted.jpg")
    six = [f"caption {n}" for n in range(6)]
    write(folder / "context.jsonl", entry("a.jpg", CAPTIONS, DOG, CAT), entry("b.jpg", six), entry("gone.jpg"))
    source = read_source(folder, unpack_to=tmp_path / "u")
    assert (source.kind, source.root, source.annotated) == ("LLaVA context", folder, True)
    assert source.missing == ("gone.jpg",)
    a, b = source.scenes
    assert (a.id, a.image, a.captions) == ("a", "a.jpg", ("A dog sits near a cat.", "A dog."))
    assert [(one.category, one.box, one.crowd) for one in a.instances] == [
        ("dog", Box(0.1, 0.25, 0.5, 1.0), False),
        ("wine glass", Box(0.6, 0.5, 0.75, 1.0), False),
    ]
    assert (b.id, b.captions, b.instances) == ("sub/b", tuple(six), ())
    assert source.scenes == read_source(folder, folder / "context.jsonl", unpack_to=tmp_path / "u").scenes


def test_nothing_is_absent_but_mentions_are_recognised(touch: Touch, tmp_path: Path) -> None:
    folder = touch("pictures", "a.jpg", "b.jpg")
    boat = {"category": "boat", "bbox": [0, 0, 1, 1]}
    write(folder / "context.jsonl", entry("a.jpg", CAPTIONS, DOG), entry("b.jpg", [], boat, CAT))
    scene = read_source(folder, unpack_to=tmp_path / "u").scenes[0]
    assert set(scene.categories) == {"dog", "wine glass", "boat"}
    assert not scene.exhaustive
    reader = CaptionReader(scene.categories)
    found = extract_facts(scene, reader)
    assert found.absent == ()
    assert found.present == ("dog",)
    assert [mention.category for mention in reader.read("a dog in a boat").mentions] == ["dog", "boat"]
    # The same annotations with a vocabulary that was looked for do say what is not there.
    sure = Scene(scene.id, scene.image, scene.captions, scene.instances, scene.categories)
    assert extract_facts(sure, reader).absent == ("boat", "wine glass")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            entry("a.jpg", [], {"category": "dog", "bbox": [12, 40, 200, 310]}),
            r"line 1 has bbox \[12, 40, 200, 310\] of dog in pixels; divide x1 and x2 by the picture's width",
        ),
        (entry("a.jpg", [], {"category": "dog", "bbox": [0.5, 0.5, 0.2, 0.9]}), "corners are not top left and bottom"),
        (entry("a.jpg", [], {"category": "dog", "bbox": [-0.5, 0.5, 0.2, 0.9]}), "corners are not top left and bottom"),
        (entry("a.jpg", [], {"category": "dog", "bbox": [0.5, 0.5, 0.2]}), r"it is \[x1, y1, x2, y2\] from 0 to 1"),
        (entry("a.jpg", [], {"category": "dog", "bbox": "0 0 1 1"}), "has bbox '0 0 1 1' of dog"),
        (entry("a.jpg", [], {"category": "<b>", "bbox": [0, 0, 1, 1]}), "category '<b>'; give it plain words"),
        (entry("a.jpg", [], {"bbox": [0, 0, 1, 1]}), "category None"),
        (entry("a.jpg", "one text"), "has captions 'one text'; a list of texts is needed"),  # type: ignore[arg-type]
        (entry("a.jpg") | {"instances": {}}, "a list of objects is needed"),
        (entry("a.jpg") | {"instances": [3]}, "an object with category and bbox is needed"),
        (entry("a.jpg") | {"image": 3}, "has image 3, not the name of a picture"),
        (entry("gone.jpg"), r"none of the 1 pictures in .*context\.jsonl is below .* .looked for gone\.jpg"),
    ],
)
def test_broken_entries_are_one_clear_line(touch: Touch, tmp_path: Path, record: dict[str, Any], message: str) -> None:
    folder = touch("pictures", "a.jpg")
    write(folder / "context.jsonl", record)
    with pytest.raises(DataError, match=message) as caught:
        read_source(folder, unpack_to=tmp_path / "u")
    assert "\n" not in str(caught.value)


def test_a_picture_listed_twice(touch: Touch, tmp_path: Path) -> None:
    folder = touch("pictures", "a.jpg")
    path = write(folder / "context.jsonl", entry("a.jpg"), entry("./a.jpg"))
    source = read_source(folder, unpack_to=tmp_path / "u")
    assert len(source.scenes) == 1
    assert source.note_counts == {"listed twice": 1}
    write(path, entry("a.jpg"), entry("a.jpg", ["another"]))
    with pytest.raises(DataError, match=r"line 2 lists a\.jpg again with other captions"):
        read_source(folder, unpack_to=tmp_path / "u")
