"""Pictures: from a file to the pixels a vision tower takes.

Decoding and resizing run in the data workers and stop at uint8, a quarter of the bytes; the device normalises.
Everything goes through the stock PIL image processors by class name: the generic ones change their backend, and with
it their pixels, when torchvision is installed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import BaseImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from qllava.errors import DataError, ModelError
from qllava.pictures import MOST_PIXELS, open_image, resolve_image

__all__ = [
    "ImageAspect",
    "build_image_processor",
    "normalize",
    "open_image",
    "pixel_statistics",
    "read_pixels",
    "resolve_image",
    "to_pixels",
]

ImageAspect = Literal["pad", "crop", "squash"]

_CONFIG = "preprocessor_config.json"


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
    prepared = processor(_bounded(image), do_rescale=False, do_normalize=False, return_tensors="np")
    pixels = cast(NDArray[np.uint8], prepared["pixel_values"][0])
    return np.ascontiguousarray(pixels, dtype=np.uint8)


def read_pixels(
    processor: BaseImageProcessor, root: Path, names: Iterable[str]
) -> tuple[dict[str, NDArray[np.uint8]], dict[str, str]]:
    """Pictures of a data set, each read once: (name -> pixels (3, H, W), name -> why it cannot be read)."""
    pixels: dict[str, NDArray[np.uint8]] = {}
    unreadable: dict[str, str] = {}
    for name in dict.fromkeys(names):
        try:
            pixels[name] = to_pixels(processor, open_image(resolve_image(root, name)))
        except DataError as error:
            unreadable[name] = str(error)
    return pixels, unreadable


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


def _bounded(image: Image.Image) -> Image.Image:
    """The picture, made smaller if the square it is padded to would be larger than any picture may be."""
    longest, most = max(image.size), math.isqrt(MOST_PIXELS)
    if longest <= most:
        return image
    width, height = (max(1, round(side * most / longest)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)


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
