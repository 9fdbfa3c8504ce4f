import json
import random
from pathlib import Path

import pytest
from PIL import Image

from qllava.demo.scenes import (
    COCO_SIZE,
    COLORS,
    SHAPES,
    Scene,
    SceneObject,
    captions,
    outline,
    random_scene,
    render_scene,
    write_coco,
    write_demo_image,
)
from qllava.errors import UsageError


def scene(*objects: SceneObject) -> Scene:
    return Scene(objects=objects, background=(240, 240, 240), shade=0)


RED_CIRCLE = SceneObject(shape="circle", color="red", size="large", x=0.2, y=0.5, side=0.32)
ORANGE_STAR = SceneObject(shape="star", color="orange", size="small", x=0.8, y=0.15, side=0.18)
BLUE_SQUARE = SceneObject(shape="square", color="blue", size="medium", x=0.5, y=0.5, side=0.25)


def read(folder: Path, name: str) -> dict[str, list[dict[str, object]]]:
    content: dict[str, list[dict[str, object]]] = json.loads((folder / "annotations" / name).read_text())
    return content


def test_captions_name_colour_before_shape_and_place():
    things = "a large red circle on the left and a small orange star at the top right"
    assert captions(scene(RED_CIRCLE, ORANGE_STAR)) == [things, f"There is {things}.", f"The picture shows {things}."]
    assert captions(scene(RED_CIRCLE, BLUE_SQUARE, ORANGE_STAR))[0] == (
        "a large red circle on the left, a blue square in the middle and a small orange star at the top right"
    )
    assert captions(scene(BLUE_SQUARE))[0] == "a blue square in the middle"


def test_objects_are_drawn_where_they_say():
    picture = render_scene(scene(RED_CIRCLE, ORANGE_STAR), size=96)
    assert picture.size == (96, 96)
    assert picture.getpixel((int(0.2 * 96), 48)) == COLORS["red"]
    assert picture.getpixel((int(0.8 * 96), int(0.15 * 96))) == COLORS["orange"]
    assert picture.getpixel((60, 80)) == (240, 240, 240)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_outline_fills_its_box(shape: str):
    points = outline(SceneObject(shape=shape, color="red", size="large", x=0.5, y=0.4, side=0.3))
    xs, ys = [x for x, _ in points], [y for _, y in points]
    assert (min(xs), max(xs)) == pytest.approx((0.35, 0.65))
    assert (min(ys), max(ys)) == pytest.approx((0.25, 0.55))


def test_random_scenes_keep_their_promises():
    scenes = [random_scene(random.Random(index), "train") for index in range(400)]
    assert {len(one.objects) for one in scenes} == {1, 2, 3}
    assert {two.color for one in scenes for two in one.objects} == set(COLORS)
    assert {two.shape for one in scenes for two in one.objects} == set(SHAPES)
    for one in scenes:
        assert len({(two.shape, two.color) for two in one.objects}) == len(one.objects)
        assert len({two.cell for two in one.objects}) == len(one.objects)
        for two in one.objects:
            assert min(two.x, two.y) >= two.side / 2
            assert max(two.x, two.y) <= 1 - two.side / 2
            # A centre never lies near a border of thirds, so "left", "middle" and "right" are never in doubt.
            assert all(abs(value - third) > 0.03 for value in (two.x, two.y) for third in (1 / 3, 2 / 3))
        for index, two in enumerate(one.objects):
            for other in one.objects[:index]:
                reach = (two.side + other.side) / 2
                assert abs(two.x - other.x) >= reach or abs(two.y - other.y) >= reach


def test_no_seed_puts_a_configuration_in_both_splits():
    train = {random_scene(random.Random(seed), "train", objects=(1,)).configuration for seed in range(3000)}
    heldout = {random_scene(random.Random(seed), "heldout", objects=(1,)).configuration for seed in range(3000)}
    assert len(train) > 500
    assert len(heldout) > 50
    assert not train & heldout


def test_write_coco_is_true_coco(tmp_path: Path):
    write_coco(tmp_path, train=6, heldout=3, seed=7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations", "train2017", "val2017"]
    for name, first, count in (("train2017", 1, 6), ("val2017", 7, 3)):
        files = [f"{number:012d}.jpg" for number in range(first, first + count)]
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == files
        instances, texts = read(tmp_path, f"instances_{name}.json"), read(tmp_path, f"captions_{name}.json")
        assert [one["file_name"] for one in instances["images"]] == files
        assert instances["images"] == texts["images"]
        assert [one["name"] for one in instances["categories"]] == list(SHAPES)
        assert all(one["supercategory"] for one in instances["categories"])
        assert len({str(one["id"]) for one in instances["annotations"]}) == len(instances["annotations"])
        assert [one["image_id"] for one in texts["annotations"]] == [
            number for number in range(first, first + count) for _ in range(3)
        ]
        for one in instances["annotations"]:
            x, y, width, height = one["bbox"]  # type: ignore[misc]
            assert 0 <= x <= x + width <= COCO_SIZE
            assert 0 <= y <= y + height <= COCO_SIZE
            assert 0.3 * width * height < one["area"] <= 1.01 * width * height  # type: ignore[operator]
            assert one["iscrowd"] == 0
            assert min(one["segmentation"][0][0::2]) == pytest.approx(x, abs=0.02)  # type: ignore[index]
        with Image.open(tmp_path / name / files[0]) as picture:
            assert (picture.format, picture.size) == ("JPEG", (COCO_SIZE, COCO_SIZE))


def test_same_seed_same_bytes(tmp_path: Path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_coco(tmp_path / folder, train=3, heldout=2, seed=seed)
        write_demo_image(tmp_path / folder / "image.jpg", seed)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 3 + 2 + 4 + 1
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        assert (tmp_path / "a" / file).read_bytes() != (tmp_path / "c" / file).read_bytes()


def test_demo_image_is_large(tmp_path: Path):
    write_demo_image(tmp_path / "demo" / "image.jpg", 42)
    with Image.open(tmp_path / "demo" / "image.jpg") as picture:
        assert picture.size == (448, 448)


def test_a_negative_number_of_pictures_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"train=-1, heldout=2 pictures; give numbers of 0 or more"):
        write_coco(tmp_path, train=-1, heldout=2, seed=0)
