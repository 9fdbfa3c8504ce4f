"""COCO folders: layouts, splits, what is missing, and one clear line for what is broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qllava.datagen.sources import read_coco
from qllava.errors import DataError, UsageError
from qllava.types import Box

Split = Callable[..., None]
ONE = [(["a red circle"], [("circle", [10, 20, 30, 40])])]


def test_boxes_are_shares_of_the_picture_clipped_with_crowds_kept(tmp_path: Path, split: Split) -> None:
    labels = [("circle", [10, 20, 30, 40]), ("dog", [90, -5, 20, 10])]
    split(tmp_path, "train2017", [(["  a red\n circle "], labels), ([], [])], crowds=[2])
    scene, bare = read_coco(tmp_path).scenes
    assert (scene.id, scene.image) == ("train2017/000000000001", "train2017/000000000001.jpg")
    assert scene.captions == ("a red circle",)
    assert scene.instances[0].box == Box(0.1, 0.2, 0.4, 0.6)
    assert scene.instances[1].box == Box(0.9, 0.0, 1.0, 0.05)
    assert [instance.crowd for instance in scene.instances] == [False, True]
    assert scene.categories == {
        "circle": "shape",
        "dog": "animal",
        "person": "",
        "square": "shape",
        "triangle": "shape",
    }
    assert (bare.captions, bare.instances) == ((), ())


def test_val_is_held_out_where_there_is_a_train(coco: Path) -> None:
    source = read_coco(coco)
    assert {scene.image.split("/")[0] for scene in source.scenes if scene.held_out} == {"val2017"}
    assert sum(scene.held_out for scene in source.scenes) == 6
    assert source.held_out_rule == "the pictures of val2017"


@pytest.mark.parametrize(("pictures", "held_out"), [(2, 1), (7, 3), (39, 19), (40, 20), (100, 20), (2500, 25)])
def test_a_single_split_holds_out_one_percent_at_least_twenty_at_most_half(
    tmp_path: Path, split: Split, pictures: int, held_out: int
) -> None:
    split(tmp_path, "val2017", ONE * pictures)
    chosen = [scene.image for scene in read_coco(tmp_path).scenes if scene.held_out]
    assert len(chosen) == held_out
    assert chosen == [scene.image for scene in read_coco(tmp_path).scenes if scene.held_out]


def test_the_split_folder_itself_finds_annotations_beside_it(coco: Path) -> None:
    source = read_coco(coco / "train2017")
    assert [scene.image for scene in source.scenes][:1] == ["000000000001.jpg"]
    assert len(source.scenes) == 12
    assert source.absent_splits == {"val2017": 6}
    assert source.missing == ()


def test_a_picture_of_the_same_name_in_another_split_is_not_taken(tmp_path: Path, split: Split) -> None:
    split(tmp_path, "train", ONE * 3)
    split(tmp_path, "val", ONE * 3, skip=[2])
    source = read_coco(tmp_path)
    assert source.missing == ("val/000000000002.jpg",)
    assert [scene.image for scene in source.scenes if scene.held_out] == [
        "val/000000000001.jpg",
        "val/000000000003.jpg",
    ]
    assert len(read_coco(tmp_path / "train").scenes) == 3


def test_pictures_directly_in_the_folder(tmp_path: Path, split: Split) -> None:
    split(tmp_path, "mine", ONE * 4, place=".")
    assert next(scene.image for scene in read_coco(tmp_path).scenes) == "000000000001.jpg"


def test_one_annotation_file_with_everything(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"png")
    content = {
        "images": [{"id": "x", "file_name": "a.png", "width": 10, "height": 20}],
        "annotations": [{"id": 1, "image_id": "x", "category_id": 7, "bbox": [0, 0, 5, 5], "caption": "a cup"}],
        "categories": [{"id": 7, "name": "Coffee_Cup"}],
    }
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    (scene,) = read_coco(tmp_path, path).scenes
    assert scene.captions == ("a cup",)
    assert (scene.instances[0].category, scene.instances[0].box) == ("coffee cup", Box(0.0, 0.0, 0.5, 0.25))


def test_missing_folder_says_where_coco_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_coco(tmp_path / "coco")
    text = str(caught.value)
    assert caught.value.exit_code == 2
    for part in (
        "no such folder",
        "cocodataset.org",
        "118,287 images, 18 GB",
        "5,000 images, 1 GB",
        "241 MB",
        "train2017",
    ):
        assert part in text
    assert "\n" not in text


def test_missing_annotations_name_the_flag(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no instances_\*\.json or captions_\*\.json in .* --annotations PATH"):
        read_coco(tmp_path)
    with pytest.raises(UsageError, match="no such file or folder"):
        read_coco(tmp_path, tmp_path / "nowhere")


def test_no_picture_on_disk(tmp_path: Path, split: Split) -> None:
    split(tmp_path, "train", ONE * 2, skip=[1, 2])
    with pytest.raises(
        DataError, match=r"none of the 2 pictures in captions_train\.json, instances_train\.json is on disk"
    ):
        read_coco(tmp_path)


def _change(content: dict[str, Any], where: str, key: str, value: object) -> dict[str, Any]:
    entry = content[where][0]
    if value is None:
        del entry[key]
    else:
        entry[key] = value
    return content


@pytest.mark.parametrize(
    ("where", "key", "value", "message"),
    [
        ("images", "width", None, "width None and height 100; boxes need both"),
        ("images", "height", 0, "height 0"),
        ("images", "id", None, "`images` .* has no `id`"),
        ("images", "id", [1], "neither a number nor a text"),
        ("images", "file_name", 3, "has file_name 3, not a name"),
        ("annotations", "image_id", 99, "names image id 99, which `images` does not list"),
        ("annotations", "category_id", 99, "category_id 99, which `categories` does not list"),
        ("annotations", "category_id", [1], r"category_id \[1\]"),
        ("annotations", "bbox", [1, 2, 3], r"bbox \[1, 2, 3\]; COCO's is"),
        ("annotations", "bbox", [1, 2, 3, "4"], "COCO's is"),
        ("annotations", "caption", 5, "caption 5, not a text"),
        ("categories", "name", None, "has no `name`"),
        ("categories", "name", "<image>", "give it plain words"),
    ],
)
def test_broken_entries_are_one_clear_line(
    tmp_path: Path, split: Split, where: str, key: str, value: object, message: str
) -> None:
    split(tmp_path, "train", ONE)
    path = tmp_path / "annotations" / "instances_train.json"
    path.write_text(json.dumps(_change(json.loads(path.read_text()), where, key, value)))
    with pytest.raises(DataError, match=message) as caught:
        read_coco(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"images": [', "is not JSON .line 1, column 13"),
        (b"\xff\xfe\x00", "is not JSON text in UTF-8"),
        (b"[]", "is not COCO's format"),
        (b'{"images": []}', "is not COCO's format"),
        (b'{"images": {}, "annotations": []}', "`images` is not a list of objects"),
        (b'{"images": [], "annotations": [3]}', "`annotations` is not a list of objects"),
    ],
)
def test_malformed_files_are_one_clear_line(tmp_path: Path, split: Split, content: bytes, message: str) -> None:
    split(tmp_path, "train", ONE)
    (tmp_path / "annotations" / "captions_train.json").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_coco(tmp_path)
    assert "\n" not in str(caught.value)
