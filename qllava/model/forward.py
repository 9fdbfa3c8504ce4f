"""One forward pass of the stock model as training and scoring need it: no graph through the tower, logits only where
a token is predicted.

Shapes: I images, P patches each, V vision width, D model width, T tokens, S supervised positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from transformers import LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from qllava.model.attention import attention_inputs
from qllava.model.head_loss import head_loss


def tower_features(model: LlavaForConditionalGeneration, pixel_values: torch.Tensor) -> torch.Tensor:
    """What the projector reads: (I, 3, H, W) normalised pixels -> (I, P, V) patch features of the chosen layer.

    The tower is frozen: `no_grad` spares its graph, which hooks for gradient checkpointing would otherwise build.
    (`inference_mode` would not do: its tensors cannot enter the projector's backward.)
    """
    config = model.config
    tower: Any = model.model.vision_tower
    layers = tower.encoder.layers
    # Layers above the chosen one, the last norm and SigLIP's pooling head would run for nothing: the same modules as in
    # the stock forward, called one by one, up to `hidden_states[vision_feature_layer]`.
    wanted = cast(int, config.vision_feature_layer) % (len(layers) + 1)
    with torch.no_grad():
        features = tower.embeddings(pixel_values.to(next(tower.parameters()).dtype))
        if hasattr(tower, "pre_layrnorm"):  # CLIP's, and its spelling
            features = tower.pre_layrnorm(features)
        for layer in layers[:wanted]:
            features = layer(features, attention_mask=None)
    features = cast(torch.Tensor, features)
    return features[:, 1:] if config.vision_feature_select_strategy == "default" else features


def hidden_states(model: LlavaForConditionalGeneration, pack: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(T, D) last hidden states of one pack.

    `pack` holds `input_ids` (T,), `position_ids` (T,), `segment` (T,), `parent` (segments,) and, unless all its samples
    are text-only, `pixel_values` (I, 3, H, W) normalised.
    """
    encoded = {}
    if "pixel_values" in pack:
        features = tower_features(model, pack["pixel_values"])
        # The stock forward takes projected features ready-made, one (P, D) tensor per image.
        projected = model.model.multi_modal_projector(
            features.to(model.model.multi_modal_projector.linear_1.weight.dtype)
        )
        encoded["image"] = BaseModelOutputWithPooling(pooler_output=cast(Any, list(projected)))
    seen = attention_inputs(
        pack["segment"],
        pack["parent"],
        pack["position_ids"],
        model.model.language_model.config,
        _compute_type(model),
    )
    output = model.model(
        input_ids=pack["input_ids"][None],
        position_ids=pack["position_ids"][None],
        mm_encoder_outputs=encoded,
        use_cache=False,
        **seen,
    )
    hidden: torch.Tensor = output.last_hidden_state[0]
    return hidden


def _compute_type(model: LlavaForConditionalGeneration) -> torch.dtype:
    """What queries and keys are computed in here: autocast's type under autocast, else the weights' own."""
    kind = model.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.lm_head.weight.dtype


def supervised_logits(model: LlavaForConditionalGeneration, pack: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(S, vocab) fp32 logits at `source` (S,), where `target` (S,) is predicted."""
    hidden = hidden_states(model, pack)
    logits: torch.Tensor = model.lm_head(hidden[pack["source"]])
    return logits.float()


def loss_sum(
    model: LlavaForConditionalGeneration, pack: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy in nats over S supervised tokens, and how many were predicted right (greedy)."""
    hidden = hidden_states(model, pack)
    return head_loss(model.lm_head, hidden[pack["source"]], pack["target"])
