"""Pictures: from a file to the pixels a vision tower takes.

Decoding and resizing run in the data workers and stop at uint8, a quarter of the bytes; the device normalises.
Everything goes through the stock PIL image processors by class name: the generic ones change their backend, and with
it their pixels, when torchvision is installed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from transformers import BaseImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from qllava.errors import DataError, ModelError

ImageAspect = Literal["pad", "crop", "squash"]

_CONFIG = "preprocessor_config.json"


def open_image(path: Path) -> Image.Image:
    """A picture file as people see it; see `as_people_see_it`.

    Raises:
        DataError: no such file, or not a picture that can be read to its end.
    """
    try:
        with Image.open(path) as file:
            return as_people_see_it(file)
    except FileNotFoundError:
        raise DataError(f"image {path} does not exist; check the image folder (--images)") from None
    except UnidentifiedImageError:
        raise DataError(f"image {path} is not a picture that PIL can read; replace it or remove its samples") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"image {path} cannot be read ({error}); replace it or remove its samples") from None


def as_people_see_it(file: Image.Image) -> Image.Image:
    """An opened picture turned upright by its EXIF tag, RGB, transparency on white.

    White, because most pictures with transparency are drawings made for a white page; PIL's own conversion shows what
    lies under the transparent part, usually black, and black lines vanish on it.
    """
    image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I;16"):  # PIL would clip 16 bits to 8 instead of scaling them
        scaled = np.asarray(image, dtype=np.uint16) >> 8
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    opaque = image.convert("RGBA")
    page = Image.new("RGBA", opaque.size, (255, 255, 255, 255))
    return Image.alpha_composite(page, opaque).convert("RGB")


def resolve_image(root: Path, name: str) -> Path:
    """The file behind an image name of a data set, which may come from anywhere and so may not leave `root`.

    Args:
        root: the image folder; it may itself be a link.
        name: path relative to `root`, or an absolute one inside it.

    Raises:
        DataError: the name leads out of `root` (links followed), or there is no such file.
    """
    base = root.resolve()
    path = (base / name).resolve()
    if not path.is_relative_to(base):
        raise DataError(f"image {name!r} lies outside the image folder {root}; copy it inside or change --images")
    if not path.is_file():
        raise DataError(f"image {name!r} is not in {root}; check the image folder (--images)")
    return path


def build_image_processor(tower: str | Path, image_aspect: ImageAspect) -> BaseImageProcessor:
    """The stock image processor of a vision tower for one way of making pictures square.

    Args:
        tower: local folder or hub id with a `preprocessor_config.json` of CLIP or SigLIP; size, mean, std and filter
            are taken from it.
        image_aspect: `pad` to a square with the mean colour, then resize (LLaVA-1.5's `expand2square`); `crop`:
            resize the shorter side and cut the middle (CLIP's own); `squash`: resize both sides (SigLIP's own).

    Raises:
        ModelError: no readable preprocessor_config.json, or one of another family.
    """
    config = _read_config(str(tower))
    family = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    if not family.startswith(("CLIP", "Siglip", "Llava")):
        raise ModelError(
            f"vision tower {tower} prepares images with {family or 'an unnamed class'}; use a CLIP or SigLIP tower"
        )
    default: Any = SiglipImageProcessorPil if family.startswith("Siglip") else CLIPImageProcessorPil
    side = _side(config, default)
    settings: dict[str, Any] = {
        "resample": config.get("resample", default.resample),
        "image_mean": list(config.get("image_mean", default.image_mean)),
        "image_std": list(config.get("image_std", default.image_std)),
    }
    square = {"height": side, "width": side}
    if image_aspect == "pad":
        return LlavaImageProcessorPil(do_pad=True, size={"shortest_edge": side}, crop_size=square, **settings)
    if image_aspect == "crop":
        return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=square, **settings)
    return SiglipImageProcessorPil(size=square, **settings)


def to_pixels(processor: BaseImageProcessor, image: Image.Image) -> NDArray[np.uint8]:
    """The processor's resized picture before normalisation: uint8 (3, H, W)."""
    # float mean and std are still needed by padding, which fills with the mean colour.
    prepared = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")
    pixels = cast(NDArray[np.uint8], prepared["pixel_values"][0])
    return np.ascontiguousarray(pixels, dtype=np.uint8)


def pixel_statistics(processor: BaseImageProcessor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the three channels, 0-1, that `normalize` takes."""
    stock = cast(Any, processor)  # the attributes belong to its subclasses
    return tuple(stock.image_mean), tuple(stock.image_std)


def normalize(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """What the processor would have done next, on the device: (x / 255 - mean) / std.

    Args:
        pixels: (B, 3, H, W) or (3, H, W) uint8.
        mean: of the three channels, 0-1; the processor's `image_mean`.
        std: likewise.

    Returns:
        float32 of the same shape.
    """
    shape = (3, 1, 1)
    mean_tensor = torch.tensor(tuple(mean), dtype=torch.float32, device=pixels.device).view(shape)
    std_tensor = torch.tensor(tuple(std), dtype=torch.float32, device=pixels.device).view(shape)
    return (pixels.to(torch.float32) / 255 - mean_tensor) / std_tensor


def _read_config(tower: str) -> dict[str, Any]:
    from transformers.utils.hub import cached_file  # noqa: PLC0415 - pulls in the hub client

    local = Path(tower)
    try:
        found = local / _CONFIG if local.is_dir() else cached_file(tower, _CONFIG)
        text = Path(cast("str | os.PathLike[str]", found)).read_text(encoding="utf-8")
    except (OSError, TypeError, ValueError):
        raise ModelError(
            f"vision tower {tower}: no {_CONFIG} to be had; check the name or the folder, or the network"
        ) from None
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ModelError(f"vision tower {tower}: {_CONFIG} is not JSON ({error}); download it again") from None
    if not isinstance(config, dict):
        raise ModelError(f"vision tower {tower}: {_CONFIG} is not a JSON object; download it again")
    return cast(dict[str, Any], config)


def _side(config: dict[str, Any], default: Any) -> int:
    """Side of the square the tower takes, in pixels: `crop_size` where there is one, in any of its spellings."""
    crops = config.get("do_center_crop", getattr(default, "do_center_crop", False))
    size: Any = (config.get("crop_size") if crops else None) or config.get("size") or default.size
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    if not isinstance(size, int):
        raise ModelError(f"the tower's {_CONFIG} gives no square size (crop_size or size); add one")
    return size
