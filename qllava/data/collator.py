"""From a row of the step data set to tensors.

Shapes: T tokens, S supervised positions, I images of one pack.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from qllava.data.trees import Tree

TREE_TENSORS = ("input_ids", "position_ids", "segment", "parent", "source", "target")


def collate_step(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The single row of a step -> its packs as tensors.

    Returns:
        `packs`: list of dicts with `input_ids`, `position_ids`, `segment` (T,), `parent` (segments,), `source`,
        `target` (S,), all int64, and `pixel_values` (I, 3, H, W) uint8 where the pack has images;
        `pack_samples`: conversations of each pack; `supervised`: S summed over the packs, the loss normaliser;
        `samples`; `tokens`; `tokens_alone`: what the same samples take without shared prefixes; `rejected`: (id,
        reason) pairs; `step`, `token_budget`: the row's own.
    """
    (row,) = rows
    trees: list[Tree] = [pack["tree"] for pack in row["packs"]]
    return {
        "packs": [collate_pack(pack["tree"], pack["pixels"]) for pack in row["packs"]],
        "pack_samples": [tree.samples for tree in trees],
        "supervised": sum(len(tree.target) for tree in trees),
        "samples": sum(tree.samples for tree in trees),
        "tokens": sum(len(tree) for tree in trees),
        "tokens_alone": sum(tree.tokens_alone for tree in trees),
        "step": row["step"],
        "token_budget": row["token_budget"],
        "rejected": list(row["rejected"]),
    }


def collate_pack(tree: Tree, pixels: np.ndarray[Any, np.dtype[np.uint8]] | None) -> dict[str, torch.Tensor]:
    """One pack as tensors; `pixels` is (I, 3, H, W) uint8 or None."""
    tensors = {name: torch.from_numpy(getattr(tree, name)) for name in TREE_TENSORS}
    if pixels is not None:
        tensors["pixel_values"] = torch.from_numpy(pixels)
    return tensors
