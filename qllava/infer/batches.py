"""Which prompts are answered together, and what they share."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any


def plan_batches(
    pictures: Sequence[tuple[Hashable, ...]], lengths: Sequence[int], *, max_rows: int, max_tokens: int
) -> Iterator[list[int]]:
    """Indices of prompts, those about the same pictures together.

    Args:
        pictures: for each prompt, what tells its pictures apart.
        lengths: tokens each prompt may come to take, its answer included.
        max_rows: prompts of one batch.
        max_tokens: rows times the longest of them; a single prompt may exceed it.
    """
    first_seen: dict[tuple[Hashable, ...], int] = {}
    keys = [first_seen.setdefault(key, len(first_seen)) for key in pictures]
    # Prompts with another number of pictures have no prefix in common, so they do not mix.
    order = sorted(range(len(lengths)), key=lambda i: (len(pictures[i]), keys[i], lengths[i], i))
    batch: list[int] = []
    longest = 0
    for index in order:
        tokens = (len(batch) + 1) * max(longest, lengths[index])
        other = bool(batch) and len(pictures[batch[-1]]) != len(pictures[index])
        if batch and (other or len(batch) >= max_rows or tokens > max_tokens):
            yield batch
            batch, longest = [], 0
        batch.append(index)
        longest = max(longest, lengths[index])
    if batch:
        yield batch


def shared_prefix(encoded: Sequence[list[int]], image_token_id: int) -> int:
    """Tokens that all prompts have in common, their images among them; each keeps at least one of its own. Else 0."""
    shared = min(map(len, encoded)) - 1
    for ids in encoded[1:]:
        shared = next((i for i in range(shared) if ids[i] != encoded[0][i]), shared)
    return 0 if any(image_token_id in ids[shared:] for ids in encoded) else shared


def cache_bytes_per_token(config: Any) -> int:
    """Keys and values of one token under a language model's config, in bytes, at two bytes a number."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * 2 * config.num_hidden_layers * heads * width)
