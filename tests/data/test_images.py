from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from transformers import AutoImageProcessor

from qllava.data.images import (
    ImageAspect,
    build_image_processor,
    normalize,
    open_image,
    resolve_image,
    to_pixels,
)
from qllava.errors import DataError, ModelError

CLIP_336: dict[str, Any] = {
    # openai/clip-vit-large-patch14-336 as it is on the hub, the size made small
    "crop_size": 42,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 42,
}
SIGLIP: dict[str, Any] = {
    "do_rescale": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
    "size": {"height": 42, "width": 42},
}


def _tower(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return folder


def _noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _hwc(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return pixels.transpose(1, 2, 0)


@pytest.mark.parametrize("config", [CLIP_336, SIGLIP], ids=["clip", "siglip"])
@pytest.mark.parametrize("aspect", get_args(ImageAspect))
@pytest.mark.parametrize("size", [(90, 40), (40, 90), (42, 42), (333, 200), (3, 50), (1, 1)])
def test_two_halves_equal_the_stock_processor(
    tmp_path: Path, config: dict[str, Any], aspect: ImageAspect, size: tuple[int, int]
) -> None:
    processor = build_image_processor(_tower(tmp_path / "t", config), aspect)
    image = _noise(*size)
    pixels = to_pixels(processor, image)
    assert (pixels.shape, pixels.dtype) == ((3, 42, 42), np.uint8)
    whole = processor(image, return_tensors="pt")["pixel_values"]
    ours = normalize(torch.from_numpy(pixels)[None], processor.image_mean, processor.image_std)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, whole)


def test_pad_is_llavas_expand_to_square_with_the_mean_colour(tmp_path: Path) -> None:
    processor = build_image_processor(_tower(tmp_path / "t", CLIP_336), "pad")
    image = _noise(90, 40)
    page = Image.new("RGB", (90, 90), (122, 116, 104))  # int(mean * 255), as LLaVA's mm_utils.py
    page.paste(image, (0, 25))
    expected = np.asarray(page.resize((42, 42), Image.Resampling.BICUBIC))
    assert np.array_equal(_hwc(to_pixels(processor, image)), expected)


def test_crop_is_clips_own(tmp_path: Path) -> None:
    processor = build_image_processor(_tower(tmp_path / "t", CLIP_336), "crop")
    image = _noise(84, 168)
    expected = np.asarray(image.resize((42, 84), Image.Resampling.BICUBIC))[21:63]
    assert np.array_equal(_hwc(to_pixels(processor, image)), expected)


def test_squash_stretches(tmp_path: Path) -> None:
    processor = build_image_processor(_tower(tmp_path / "t", SIGLIP), "squash")
    image = _noise(84, 168)
    expected = np.asarray(image.resize((42, 42), Image.Resampling.BICUBIC))
    assert np.array_equal(_hwc(to_pixels(processor, image)), expected)


@pytest.mark.parametrize("aspect", get_args(ImageAspect))
def test_saved_processors_load_back_the_same(tmp_path: Path, aspect: ImageAspect) -> None:
    processor = build_image_processor(_tower(tmp_path / "t", CLIP_336), aspect)
    processor.save_pretrained(tmp_path / "saved")
    again = AutoImageProcessor.from_pretrained(tmp_path / "saved")
    assert type(again) is type(processor)
    assert np.array_equal(to_pixels(again, _noise(90, 40)), to_pixels(processor, _noise(90, 40)))


@pytest.mark.parametrize("crop_size", [42, {"height": 42, "width": 42}])
@pytest.mark.parametrize("size", [50, {"shortest_edge": 50}])
def test_every_spelling_of_the_size(tmp_path: Path, size: object, crop_size: object) -> None:
    config = {**CLIP_336, "size": size, "crop_size": crop_size}
    for aspect in get_args(ImageAspect):
        processor = build_image_processor(_tower(tmp_path / "t", config), aspect)
        assert to_pixels(processor, _noise(9, 7)).shape == (3, 42, 42)


def test_towers_without_a_usable_config(tmp_path: Path) -> None:
    def message(tower: str | Path) -> str:
        with pytest.raises(ModelError) as error:
            build_image_processor(tower, "pad")
        return str(error.value)

    (tmp_path / "empty").mkdir()
    fix = "no preprocessor_config.json to be had; check the name or the folder, or the network"
    assert message(tmp_path / "empty") == f"vision tower {tmp_path / 'empty'}: {fix}"
    assert message("openai/no-such-tower") == f"vision tower openai/no-such-tower: {fix}"
    other = _tower(tmp_path / "t", {"image_processor_type": "ViTImageProcessor"})
    assert message(other) == f"vision tower {other} prepares images with ViTImageProcessor; use a CLIP or SigLIP tower"
    (other / "preprocessor_config.json").write_text("{")
    assert "preprocessor_config.json is not JSON" in message(other)
    (other / "preprocessor_config.json").write_text("[]")
    assert "preprocessor_config.json is not a JSON object" in message(other)
    odd = _tower(tmp_path / "t", {**SIGLIP, "size": {"longest_edge": 42}})
    assert message(odd) == "the tower's preprocessor_config.json gives no square size (crop_size or size); add one"


def test_pictures_stand_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to view
    image.save(tmp_path / "a.jpg", exif=exif)
    found = open_image(tmp_path / "a.jpg")
    assert (found.size, found.mode) == ((20, 40), "RGB")
    assert found.size == ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg")).size


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (200, 0, 0, 255))
    image.save(tmp_path / "rgba.png")
    image.convert("LA").save(tmp_path / "la.png")
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    for name in ("rgba.png", "la.png", "p.png"):
        found = open_image(tmp_path / name)
        assert found.mode == "RGB"
        assert found.getpixel((0, 0)) == (255, 255, 255)
        assert found.getpixel((1, 0)) != (255, 255, 255)


def test_other_kinds_of_pictures_become_rgb(tmp_path: Path) -> None:
    Image.new("L", (1, 1), 77).save(tmp_path / "l.png")
    Image.new("CMYK", (1, 1), (0, 0, 0, 255)).save(tmp_path / "cmyk.jpg")
    Image.fromarray(np.full((1, 1), 77 << 8, dtype=np.uint16)).save(tmp_path / "16.png")
    Image.new("1", (1, 1), 1).save(tmp_path / "1.png")
    assert open_image(tmp_path / "l.png").getpixel((0, 0)) == (77, 77, 77)
    assert open_image(tmp_path / "16.png").getpixel((0, 0)) == (77, 77, 77)
    assert open_image(tmp_path / "1.png").getpixel((0, 0)) == (255, 255, 255)
    assert open_image(tmp_path / "cmyk.jpg").mode == "RGB"


def test_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    def message(name: str) -> str:
        with pytest.raises(DataError) as error:
            open_image(tmp_path / name)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert message("no.jpg") == f"image {tmp_path / 'no.jpg'} does not exist; check the image folder (--images)"
    (tmp_path / "text.jpg").write_text("not found")
    assert message("text.jpg") == (
        f"image {tmp_path / 'text.jpg'} is not a picture that PIL can read; replace it or remove its samples"
    )
    _noise(200, 200).save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:5000])
    assert message("half.jpg").startswith(f"image {tmp_path / 'half.jpg'} cannot be read (image file is truncated")
    (tmp_path / "folder.jpg").mkdir()
    assert message("folder.jpg") == f"image {tmp_path / 'folder.jpg'} is no file; replace it or remove its samples"


def test_names_stay_inside_the_image_folder(tmp_path: Path) -> None:
    root = tmp_path / "coco"
    (root / "train").mkdir(parents=True)
    inside, outside = root / "train" / "a.jpg", tmp_path / "secret.jpg"
    for path in (inside, outside):
        path.write_bytes(b"x")
    (root / "link.jpg").symlink_to(outside)
    (tmp_path / "alias").symlink_to(root)
    assert resolve_image(root, "train/a.jpg") == inside
    assert resolve_image(root, "train/../train/a.jpg") == inside
    assert resolve_image(tmp_path / "alias", "train/a.jpg") == inside
    assert resolve_image(root, str(inside)) == inside
    with pytest.raises(DataError, match=r"'link.jpg' is a link that leads outside the image folder .* \(cp -L\)"):
        resolve_image(root, "link.jpg")
    for name in ("a\0b", "a" * 5000, "\ud800.jpg"):
        with pytest.raises(DataError, match=r" is no file name; correct the sample"):
            resolve_image(root, name)
    for name in ("../secret.jpg", str(outside), "train/../../secret.jpg"):
        with pytest.raises(DataError) as error:
            resolve_image(root, name)
        assert str(error.value) == (
            f"image {name!r} lies outside the image folder {root}; copy it inside or change --images"
        )
    for name in ("no.jpg", "train", ""):
        with pytest.raises(DataError) as error:
            resolve_image(root, name)
        assert str(error.value) == f"image {name!r} is not in {root}; check the image folder (--images)"
