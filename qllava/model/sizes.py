"""How many tokens a picture takes, from configs alone."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from qllava.errors import ModelError
from qllava.model.embedded import resolve_model
from qllava.model.tokenizer import not_found
from qllava.recipe import ModelSettings


def tokens_per_image(model: ModelSettings) -> int:
    """Image tokens of one picture under these settings: (image size / patch size)^2, plus CLS for CLIP when `full`.

    Raises:
        ModelError: the tower's config cannot be read.
    """
    try:
        config = AutoConfig.from_pretrained(resolve_model(model.vision_tower), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(not_found(model.vision_tower, error)) from error
    return patch_count(getattr(config, "vision_config", config), model.patches)


def patch_count(vision_config: Any, patches: str) -> int:
    """The same from the tower's own config."""
    grid = int(vision_config.image_size // vision_config.patch_size) ** 2
    has_cls = vision_config.model_type == "clip_vision_model"
    return grid + int(has_cls and patches == "full")
