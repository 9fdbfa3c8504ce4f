"""The attention mask of packed trees.

Shapes: T tokens of one pack. A pack is one row (B = 1), so masks are (1, 1, T, T).
"""

from __future__ import annotations

import torch


def tree_mask(segment: torch.Tensor, parent: torch.Tensor) -> torch.Tensor:
    """Which token may look at which: j <= i, and j in i's own segment or in its parent (the shared prefix).

    Args:
        segment: (T,) the segment of each token.
        parent: (segments,) the segment whose tokens a segment may also see; itself where there is none.

    Returns:
        (1, 1, T, T) bool, True = attend.
    """
    visible = (segment[:, None] == segment[None, :]) | (parent[segment][:, None] == segment[None, :])
    return visible.tril()[None, None]
