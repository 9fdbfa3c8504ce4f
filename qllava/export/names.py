"""Names of tensors as published LLaVA checkpoints have them, which transformers 4 and 5, vLLM and SGLang all read."""

from __future__ import annotations

# llava-hf's layout. transformers 5 calls these modules otherwise and maps the names while it loads.
_PREFIXES = (
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)


def published_name(name: str) -> str:
    """`model.language_model.norm.weight` -> `language_model.model.norm.weight`.

    Raises:
        ValueError: the name is not of a stock LLaVA model.
    """
    for ours, published in _PREFIXES:
        if name.startswith(ours):
            return published + name.removeprefix(ours)
    raise ValueError(f"{name} is no tensor of a LLaVA model")
