"""What was given is found out; what is nothing, or several things, is one line that names --annotations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qllava.datagen.sources import read_coco, read_source
from qllava.errors import UsageError
from tests.datagen.sources.conftest import Touch

Split = Callable[..., None]


def test_coco_in_beside_and_named(coco: Path, tmp_path: Path) -> None:
    out = tmp_path / "u"
    assert read_source(coco, unpack_to=out) == read_coco(coco)
    assert read_source(str(coco), coco / "annotations", unpack_to=out) == read_coco(coco)
    beside = read_source(coco / "train2017", unpack_to=out)
    assert beside == read_coco(coco / "train2017")
    assert beside.kind == "COCO"
    assert all(scene.exhaustive for scene in beside.scenes)
    one = coco / "annotations" / "instances_train2017.json"
    assert read_source(coco, one, unpack_to=out) == read_coco(coco, one)
    one.rename(coco / "train2017" / "labels.json")
    assert len(read_source(coco / "train2017", unpack_to=out).scenes) == 12


def test_what_is_unpacked_inside_the_folder_is_not_read_again(coco: Path) -> None:
    source = read_source(coco, unpack_to=coco / "data")
    (coco / "data").mkdir()
    for name in ("000000000001.jpg", "x.jpg"):
        (coco / "data" / name).write_bytes(b"jpeg")
    (coco / "train2017" / "000000000001.jpg").unlink()
    again = read_source(coco, unpack_to=coco / "data")
    assert again.missing == ("train2017/000000000001.jpg",)
    assert len(again.scenes) == len(source.scenes) - 1


def test_several_things_are_refused(coco: Path, tmp_path: Path, touch: Touch) -> None:
    (coco / "captions.csv").write_text("image,caption\na.jpg,x\n")
    with pytest.raises(
        UsageError, match=r"holds COCO annotations and a caption table .captions\.csv.; say which by --annotations PATH"
    ):
        read_source(coco, unpack_to=tmp_path / "u")
    folder = touch("pictures", "a.jpg")
    for name in ("one.csv", "two.csv"):
        (folder / name).write_text("image,caption\na.jpg,x\n")
    with pytest.raises(UsageError, match=r"several tables .one\.csv, two\.csv.; say which by --annotations"):
        read_source(folder, unpack_to=tmp_path / "u")
    assert read_source(folder, folder / "two.csv", unpack_to=tmp_path / "u").scenes[0].captions == ("x",)
    for name in ("one.csv", "two.csv"):
        (folder / name).unlink()
        (folder / name).with_suffix(".json").write_text(json.dumps({"images": [], "annotations": []}))
    with pytest.raises(UsageError, match=r"several tables .one\.json, two\.json"):
        read_source(folder, unpack_to=tmp_path / "u")


def test_nothing_lists_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError) as caught:
        read_source(tmp_path / "empty", unpack_to=tmp_path / "u")
    for part in (
        "nothing known in it",
        "instances_*.json",
        "caption table",
        "img2dataset",
        "images.zip",
        "--annotations",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("images", ["nowhere", "nowhere/", "/no/where", "here/nowhere", "a/b/c", "../x"])
def test_no_such_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(UsageError, match="no such folder; COCO's layout is"):
        read_source(images, unpack_to=tmp_path / "u")


def test_wrong_annotations_and_files(coco: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--annotations nowhere: no such file or folder"):
        read_source(coco, Path("nowhere"), unpack_to=tmp_path / "u")
    picture = coco / "train2017" / "000000000001.jpg"
    with pytest.raises(UsageError, match="is a file of no known kind; name a folder with COCO"):
        read_source(picture, unpack_to=tmp_path / "u")
