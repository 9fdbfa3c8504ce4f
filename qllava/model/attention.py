"""Who attends to whom in a pack: the mask of packed trees, and the one switch between its three kernels.

SDPA takes a dense (T, T) mask and computes every pair of tokens; FlexAttention takes a table of 128 x 128 blocks and
skips the empty ones; `segments` is one small SDPA call a segment. A pack of many trees is mostly empty, so skipping
saves work as packs grow. On CUDA FlexAttention's compilation stands against that (about a minute at the start, Triton
and a C compiler needed) and its smaller kernels: at 7B and 8192 tokens the dense attention is about a sixth of a
step's arithmetic, at 2048 a twentieth, so below FLEX_FROM there is nothing to gain. On a processor FlexAttention has no
backward pass, and `segments` is what saves the work.

Shapes: T tokens of one pack. A pack is one row (B = 1), so dense masks are (1, 1, T, T).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import LlavaForConditionalGeneration

from qllava.model.segments import NAME as _SEGMENTS
from qllava.model.segments import segment_blocks

AttentionKernel = Literal["sdpa", "flex", "segments"]
Mask = torch.Tensor | BlockMask

# Tokens of a pack from which FlexAttention is worth trying.
FLEX_FROM = 4096
_FLEX = "flex_attention"
_IMPLEMENTATIONS: dict[AttentionKernel, str] = {"sdpa": "sdpa", "flex": _FLEX, "segments": _SEGMENTS}


def use_kernel(model: LlavaForConditionalGeneration, kernel: AttentionKernel) -> None:
    """Choose the language model's attention kernel, in place; the tower keeps its own. `flex` is for CUDA."""
    model.model.language_model.set_attn_implementation(_IMPLEMENTATIONS[kernel])


def attention_inputs(
    segment: torch.Tensor, parent: torch.Tensor, position_ids: torch.Tensor, config: Any, dtype: torch.dtype
) -> dict[str, Any]:
    """What a language model's forward takes beside a pack's tokens, for the kernel that is set.

    Args:
        segment, parent, position_ids, config: as in `pack_mask`.
        dtype: of the queries.
    """
    if len(parent) == 1 or config._attn_implementation != _SEGMENTS:
        return {"attention_mask": as_numbers(pack_mask(segment, parent, position_ids, config), dtype)}
    window = getattr(config, "sliding_window", None)
    blocks = segment_blocks(segment, parent, position_ids, window=window, dtype=dtype)
    # The stock forward takes a mask of four dimensions as it is; without one it would build its own, for nobody.
    return {"attention_mask": torch.zeros(1, 1, 1, 1, dtype=dtype, device=segment.device), "blocks": blocks}


def pack_mask(
    segment: torch.Tensor, parent: torch.Tensor, position_ids: torch.Tensor, config: Any
) -> Mask | dict[str, Mask] | None:
    """What a language model's forward takes as `attention_mask` for one pack.

    Args:
        segment: (T,) the segment of each token.
        parent: (segments,) the segment whose tokens a segment may also see; itself where there is none.
        position_ids: (T,) place of each token in its own conversation.
        config: of the language model; its kernel and its sliding window are read.

    Returns:
        None for a single segment: there the model's own causal rule is the mask, and flash kernels can be used. Else
        a mask, or one for each kind of layer where the model mixes windows.
    """
    if len(parent) == 1:
        return None
    make = block_mask if config._attn_implementation == _FLEX else tree_mask
    window = getattr(config, "sliding_window", None)
    # Qwen names the kind of each layer and has a window in its config even where no layer uses it.
    kinds = set(getattr(config, "layer_types", None) or ())
    if window is None or len(segment) <= window or kinds == {"full_attention"}:
        return make(segment, parent)
    windowed = make(segment, parent, position_ids, window)
    if not kinds:
        return windowed
    return {"full_attention": make(segment, parent), "sliding_attention": windowed}


def as_numbers(mask: Mask | dict[str, Mask] | None, dtype: torch.dtype) -> Mask | dict[str, Mask] | None:
    """A mask as SDPA adds it: 0 or -inf in `dtype`, that of the queries.

    SDPA turns a bool mask into numbers in every layer anew and keeps each for the backward pass (measured: T x T
    numbers a layer; 4 GiB at 8192 tokens of a 7B). Made once, all layers keep the same one.
    """
    if isinstance(mask, dict):
        return {kind: cast(Mask, as_numbers(each, dtype)) for kind, each in mask.items()}
    if not isinstance(mask, torch.Tensor):
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)


def tree_mask(
    segment: torch.Tensor,
    parent: torch.Tensor,
    position_ids: torch.Tensor | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Which token may look at which: j <= i, and j in i's own segment or in its parent (the shared prefix).

    With a window also: fewer than `window` places back in i's own conversation, which in a tree is not the distance
    in the pack.

    Args:
        segment, parent, position_ids: as in `pack_mask`.
        window: tokens that a token sees, itself included (transformers' `sliding_window`).

    Returns:
        (1, 1, T, T) bool, True = attend.
    """
    visible = (segment[:, None] == segment[None, :]) | (parent[segment][:, None] == segment[None, :])
    if window is not None and position_ids is not None:
        visible &= position_ids[:, None] - position_ids[None, :] < window
    return visible.tril()[None, None]


def block_mask(
    segment: torch.Tensor,
    parent: torch.Tensor,
    position_ids: torch.Tensor | None = None,
    window: int | None = None,
) -> BlockMask:
    """`tree_mask` as FlexAttention takes it: the same rule, evaluated for blocks of tokens."""
    rule = _rule(segment, parent, position_ids, window)
    tokens = len(segment)
    return create_block_mask(rule, B=None, H=None, Q_LEN=tokens, KV_LEN=tokens, device=segment.device)


def _rule(
    segment: torch.Tensor, parent: torch.Tensor, position_ids: torch.Tensor | None, window: int | None
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    above = parent[segment]

    def visible(batch: torch.Tensor, head: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        del batch, head
        same = (segment[i] == segment[j]) | (above[i] == segment[j])
        if window is not None and position_ids is not None:
            same = same & (position_ids[i] - position_ids[j] < window)
        return same & (j <= i)

    return visible
