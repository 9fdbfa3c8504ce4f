"""Which tokens end an answer, and which are never generated.

Shapes: K vocabulary rows.
"""

from __future__ import annotations

import torch
from transformers import LlavaForConditionalGeneration

from qllava.data.encode import ChatEncoder


def stop_ids(model: LlavaForConditionalGeneration, encoder: ChatEncoder) -> frozenset[int]:
    """Tokens that end an answer: the template's, and those the language model itself ends with."""
    special = special_ids(encoder)
    own = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = own if isinstance(own, list) else [own]
    found = [*(special.get(stop) for stop in encoder.template.stop), encoder.tokenizer.eos_token_id, *listed]
    return frozenset(index for index in found if index is not None)


def suppressed_ids(
    model: LlavaForConditionalGeneration, encoder: ChatEncoder, stop_ids: frozenset[int]
) -> torch.Tensor:
    """(K,) bool: ids that are never generated: `<image>`, padding, and padded rows that are no token."""
    suppressed = torch.zeros(model.lm_head.out_features, dtype=torch.bool)
    suppressed[len(encoder.tokenizer) :] = True
    suppressed[encoder.image_token_id] = True
    padding = encoder.tokenizer.pad_token_id
    if padding is not None and padding not in stop_ids:
        suppressed[padding] = True
    return suppressed


def special_ids(encoder: ChatEncoder) -> dict[str, int]:
    """Ids of the tokenizer's special tokens by their text."""
    return {str(token): index for index, token in encoder.tokenizer.added_tokens_decoder.items() if token.special}
