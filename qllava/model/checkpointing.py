"""Activation checkpointing of the language model: none, every n-th layer, or all; may change between two steps."""

from __future__ import annotations

from transformers import LlavaForConditionalGeneration


def checkpoint_layers(model: LlavaForConditionalGeneration, every: int | None) -> None:
    """Recompute every n-th decoder layer in the backward pass (1: all, None: none), in place.

    Only the language model's layers count: the stock call on the whole model starts counting at the tower's
    (transformers/modeling_utils.py, `_set_gradient_checkpointing`), which run without autograd anyway.
    """
    language = model.model.language_model
    if every is None:
        language.activation_checkpointing_disable()
        return
    language.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=every)
    # It also makes the embeddings' output require grad, which only reentrant checkpointing needs.
    language.disable_input_require_grads()
