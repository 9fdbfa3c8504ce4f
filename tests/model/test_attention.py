"""Masks: dropped where causal says the same, windowed by places in the conversation, equal on both kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_mask
from transformers import LlamaConfig, MistralConfig, Qwen2Config

from qllava.data.trees import Tree, grow_trees, join_trees
from qllava.model.attention import as_numbers, attention_inputs, block_mask, pack_mask, tree_mask
from qllava.model.segments import NAME, segment_blocks
from tests.packs import random_encoded

Ids = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def ids_of(tree: Tree) -> Ids:
    return tuple(torch.from_numpy(array) for array in (tree.segment, tree.parent, tree.position_ids))  # type: ignore[return-value]


def pack(seed: int = 0) -> Tree:
    rng = np.random.default_rng(seed)
    samples = [random_encoded(rng, image=i, image_token_id=350, patches=6) for i in ("a", "a", "a", "b", None, "c")]
    return join_trees(grow_trees(samples, image_token_id=350, token_budget=500))


def slow_mask(tree: Tree, window: int | None) -> torch.Tensor:
    """The rule said token by token: a conversation's tokens see its earlier ones, those of the window."""
    size = len(tree)
    visible = torch.zeros(size, size, dtype=torch.bool)
    for i in range(size):
        for j in range(i + 1):
            mine, other = tree.segment[i], tree.segment[j]
            near = window is None or tree.position_ids[i] - tree.position_ids[j] < window
            visible[i, j] = bool(near and (mine == other or tree.parent[mine] == other))
    return visible


@pytest.mark.parametrize("window", [None, 1, 5, 12])
def test_both_masks_follow_the_rule(window: int | None) -> None:
    tree = pack()
    expected = slow_mask(tree, window)
    segment, parent, position_ids = ids_of(tree)
    assert torch.equal(tree_mask(segment, parent, position_ids, window)[0, 0], expected)
    blocks = block_mask(segment, parent, position_ids, window)
    dense = create_mask(blocks.mask_mod, None, None, len(tree), len(tree), device="cpu")
    assert torch.equal(dense[0, 0], expected)


@pytest.mark.parametrize("window", [None, 1, 5, 12])
def test_segments_follow_the_rule(window: int | None) -> None:
    tree = pack()
    segment, parent, position_ids = ids_of(tree)
    expected = slow_mask(tree, None), slow_mask(tree, window)
    found = torch.zeros(2, len(tree), len(tree), dtype=torch.bool)
    for block in segment_blocks(segment, parent, position_ids, window=window, dtype=torch.float32):
        own = range(len(tree))[block.own]
        seen = [*(range(len(tree))[block.prefix] if block.prefix is not None else []), *own]
        causal = torch.ones(len(own), len(own), dtype=torch.bool).tril()
        for kind, mask in enumerate((block.mask, block.windowed)):
            found[kind][np.ix_(own, seen)] = causal if mask is None else mask == 0
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_segments_need_no_mask_of_the_whole_pack() -> None:
    config = LlamaConfig(attn_implementation="sdpa")
    config._attn_implementation = NAME
    inputs = attention_inputs(*ids_of(pack()), config, torch.float32)
    assert inputs["attention_mask"].shape == (1, 1, 1, 1)
    assert len(inputs["blocks"]) > 1
    assert sum(block.mask.numel() for block in inputs["blocks"] if block.mask is not None) < len(pack()) ** 2 / 2


def test_blocks_skip_what_no_token_sees() -> None:
    trees = [pack(seed) for seed in range(40)]
    whole = join_trees(trees)
    blocks = block_mask(*ids_of(whole)[:2])
    assert len(whole) > 2000
    assert blocks.sparsity() > 80


def test_one_segment_needs_no_mask() -> None:
    rng = np.random.default_rng(1)
    sample = random_encoded(rng, image="a", image_token_id=350, patches=6)
    (alone,) = grow_trees([sample], image_token_id=350, token_budget=500)
    assert pack_mask(*ids_of(alone), LlamaConfig(attn_implementation="sdpa")) is None
    assert pack_mask(*ids_of(join_trees([alone, alone])), LlamaConfig(attn_implementation="sdpa")) is not None


def test_the_mask_in_numbers_is_the_rule() -> None:
    tree = pack()
    rule = tree_mask(*ids_of(tree))
    numbers = as_numbers(rule, torch.bfloat16)
    assert isinstance(numbers, torch.Tensor)
    assert numbers.dtype == torch.bfloat16
    assert torch.equal(numbers == 0, rule)
    assert bool(torch.isneginf(numbers[~rule]).all())
    both = as_numbers({"full_attention": rule}, torch.float32)
    assert isinstance(both, dict)
    assert as_numbers(None, torch.float32) is None


def test_windows_are_kept_where_the_model_has_them() -> None:
    tree = pack()
    plain, windowed = (tree_mask(*ids_of(tree), window) for window in (None, 8))

    def masks(config: object) -> object:
        return pack_mask(*ids_of(tree), config)

    wide = masks(MistralConfig(sliding_window=4096, attn_implementation="sdpa"))
    assert isinstance(wide, torch.Tensor)
    assert torch.equal(wide, plain)
    narrow = masks(MistralConfig(sliding_window=8, attn_implementation="sdpa"))
    assert isinstance(narrow, torch.Tensor)
    assert torch.equal(narrow, windowed)
    assert not torch.equal(plain, windowed)
    unused = masks(Qwen2Config(sliding_window=8, use_sliding_window=False, attn_implementation="sdpa"))
    assert isinstance(unused, torch.Tensor)
    assert torch.equal(unused, plain)
    mixed = masks(
        Qwen2Config(
            num_hidden_layers=4,
            sliding_window=8,
            use_sliding_window=True,
            max_window_layers=2,
            attn_implementation="sdpa",
        )
    )
    assert isinstance(mixed, dict)
    assert torch.equal(mixed["full_attention"], plain)
    assert torch.equal(mixed["sliding_attention"], windowed)
