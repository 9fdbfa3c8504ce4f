"""How well a model predicts the answers of samples, token by token, pictures given or taken away.

Samples about one picture share its computation, as in training (`data/trees.py`), and many go through one forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from qllava.data.collator import collate_pack
from qllava.data.encode import Encoded
from qllava.data.images import normalize
from qllava.data.trees import Tree, grow_trees, join_trees
from qllava.model.forward import supervised_logits
from qllava.model.precision import autocast

# Tokens of one forward; a vocabulary row of logits for each supervised one has to fit beside them.
TOKENS = 1024

Pixels = NDArray[np.uint8]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class TokenScores:
    """The trained tokens of one sample, in order: `loss` (S,) in nats, `right` (S,) whether it was the likeliest."""

    loss: NDArray[np.float64]
    right: NDArray[np.bool_]

    def last(self, count: int) -> TokenScores:
        """Only the last `count` of them."""
        return TokenScores(self.loss[len(self.loss) - count :], self.right[len(self.right) - count :])


@torch.no_grad()
def token_scores(
    model: LlavaForConditionalGeneration,
    samples: Sequence[Encoded],
    pixels_of: Callable[[str], Pixels],
    *,
    statistics: Statistics,
    image_token_id: int,
    device: str,
    share: bool = True,
    scored: Callable[[int], None] | None = None,
) -> list[TokenScores]:
    """Score samples in their order.

    Args:
        model: in eval mode.
        samples: encoded; those with the same `images` share their prefix.
        pixels_of: image name -> (3, H, W) uint8.
        statistics: mean and standard deviation of `pixel_statistics`.
        image_token_id: of the encoder.
        device: `cpu` or `cuda`.
        share: False runs every sample alone (the slow twin).
        scored: told how many samples are done after each forward.
    """
    result: dict[int, TokenScores] = {}
    pack: list[tuple[list[int], Tree]] = []

    def flush() -> None:
        if not pack:
            return
        tree = join_trees([tree for _, tree in pack])
        pixels = np.stack([pixels_of(name) for name in tree.images]) if tree.images else None
        tensors = {name: value.to(device) for name, value in collate_pack(tree, pixels).items()}
        if pixels is not None:
            tensors["pixel_values"] = normalize(tensors["pixel_values"], *statistics)
        with autocast(device):
            logits = supervised_logits(model, tensors)
        loss = functional.cross_entropy(logits, tensors["target"], reduction="none").double().cpu().numpy()
        right = (logits.argmax(-1) == tensors["target"]).cpu().numpy()
        place = 0
        for index in (index for members, _ in pack for index in members):
            # The first token of a conversation has nothing to be predicted from; trees leave it out.
            count = sum(samples[index].assistant_mask[1:])
            result[index] = TokenScores(loss[place : place + count], right[place : place + count])
            place += count
        pack.clear()
        if scored is not None:
            scored(len(result))

    for members, tree in _trees(samples, image_token_id, share=share):
        if pack and (not share or sum(len(other) for _, other in pack) + len(tree) > TOKENS):
            flush()
        pack.append((members, tree))
    flush()
    return [result[index] for index in range(len(samples))]


def _trees(samples: Sequence[Encoded], image_token_id: int, *, share: bool) -> list[tuple[list[int], Tree]]:
    """Trees, and which samples are their branches."""
    groups: dict[object, list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(sample.images if share and sample.images else index, []).append(index)
    found = []
    for group in groups.values():
        members = iter(group)
        encoded = [samples[index] for index in group]
        for tree in grow_trees(encoded, image_token_id=image_token_id, token_budget=TOKENS, share=share):
            found.append(([next(members) for _ in range(tree.samples)], tree))
    return found
