"""Attention of packed trees segment by segment: only pairs of tokens that may see each other are computed.

Dense SDPA computes all T x T pairs of a pack and throws most of them away. Here each segment is one small SDPA call:
a prefix attends causally to itself, a branch to its prefix and itself. Exact, and without a (T, T) mask. For
processors, where small products lose nothing; on CUDA FlexAttention skips the same pairs in one kernel.

Shapes: T tokens of a pack (B = 1), H heads, D head width, n tokens of a segment, p of its prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "qllava_segments"


@dataclass(frozen=True)
class Block:
    """One segment's attention.

    Attributes:
        own: the segment's tokens in the pack.
        prefix: those of the segment it also sees; None for a prefix, and for a conversation alone.
        mask: (n, p + n) to add, 0 or -inf; None where the rule is plainly causal.
        windowed: the same for layers with a sliding window.
    """

    own: slice
    prefix: slice | None
    mask: torch.Tensor | None
    windowed: torch.Tensor | None


def segment_blocks(
    segment: torch.Tensor, parent: torch.Tensor, position_ids: torch.Tensor, *, window: int | None, dtype: torch.dtype
) -> list[Block]:
    """The blocks of a pack whose segments lie one after the other, as `data.trees` builds them.

    Args:
        segment: (T,) the segment of each token.
        parent: (segments,) the segment whose tokens a segment may also see; itself where there is none.
        position_ids: (T,) place of each token in its own conversation.
        window: tokens that a token sees in layers with a sliding window, itself included.
        dtype: of the queries, and so of the masks.
    """
    ends = torch.bincount(segment, minlength=len(parent)).cumsum(0).tolist()
    ranges = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    blocks = []
    for number, above in enumerate(parent.tolist()):
        own, prefix = ranges[number], ranges[above] if above != number else None
        if own.start == own.stop:  # a conversation that is all prefix
            continue
        queries = position_ids[own]
        keys = queries if prefix is None else torch.cat([position_ids[prefix], queries])
        mask = None if prefix is None else _additive(queries, keys, None, dtype)
        short = window is None or int(keys.max()) - int(keys.min()) < window
        blocks.append(Block(own, prefix, mask, mask if short else _additive(queries, keys, window, dtype)))
    return blocks


def _additive(queries: torch.Tensor, keys: torch.Tensor, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """(n, p + n): a branch's positions go on from its prefix's, so causality is a matter of positions alone."""
    back = queries[:, None] - keys[None, :]
    visible = back >= 0 if window is None else (back >= 0) & (back < window)
    return torch.zeros_like(back, dtype=dtype).masked_fill_(~visible, -torch.inf)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    blocks: list[Block] | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: (1, H, T, D) queries -> (1, T, H, D); without `blocks` it is stock SDPA."""
    if blocks is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output, None
    repeats = query.shape[1] // key.shape[1]
    parts = []
    for block in blocks:
        mask = block.mask if sliding_window is None else block.windowed
        keys, values = (repeat_kv(_visible(tensor, block), repeats) for tensor in (key, value))
        parts.append(
            functional.scaled_dot_product_attention(
                query[:, :, block.own],
                keys,
                values,
                attn_mask=mask,
                dropout_p=dropout,
                scale=scaling,
                is_causal=mask is None,
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _visible(tensor: torch.Tensor, block: Block) -> torch.Tensor:
    own = tensor[:, :, block.own]
    return own if block.prefix is None else torch.cat([tensor[:, :, block.prefix], own], dim=2)


AttentionInterface.register(NAME, attend)
# For forwards that bring no blocks: masks as for SDPA.
AttentionMaskInterface.register(NAME, sdpa_mask)
