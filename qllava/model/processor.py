"""The stock `LlavaProcessor` of a run: image processor, tokenizer and chat template, as other tools load it."""

from __future__ import annotations

from transformers import BaseImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

from qllava.model.tokenizer import IMAGE_TOKEN


def build_processor(
    *,
    image_processor: BaseImageProcessor,
    tokenizer: PreTrainedTokenizerFast,
    chat_template: str,
    patch_size: int,
    patches: str,
    has_cls: bool,
) -> LlavaProcessor:
    """Bundle the parts; `patch_size` in pixels, `patches` is `default` or `full`, `has_cls` is true for CLIP."""
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy=patches,
        chat_template=chat_template,
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1 if has_cls else 0,
    )
