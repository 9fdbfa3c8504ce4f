"""Random samples and packs for tests of everything that eats packs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from qllava.data.collator import collate_pack
from qllava.data.encode import Encoded
from qllava.data.packing import pack_trees
from qllava.data.trees import Tree, grow_trees


def random_encoded(
    rng: np.random.Generator,
    *,
    image: str | None,
    image_token_id: int,
    patches: int,
    prefix: list[int] | None = None,
    supervised_from_start: bool = False,
    vocabulary: int = 300,
) -> Encoded:
    """A conversation of 2 turns with random tokens; `prefix` comes before the picture."""
    head = list(prefix or [5, 6])
    if image is not None:
        head += [image_token_id] * patches + [7]
    body = [int(i) for i in rng.integers(10, vocabulary, size=int(rng.integers(6, 14)))]
    mask = [int(i) for i in rng.integers(0, 2, size=len(body))]
    mask[0] = int(supervised_from_start)
    mask[-1] = 1
    images = () if image is None else (image,)
    return Encoded(input_ids=head + body, assistant_mask=[0] * len(head) + mask, images=images, dropped_turns=0)


def pixels_of(names: tuple[str, ...], size: int = 32) -> torch.Tensor:
    """(I, 3, H, W) normalised pixels that depend on the name only."""
    pictures = []
    for name in names:
        generator = torch.Generator().manual_seed(sum(name.encode()))
        pictures.append(torch.randn(3, size, size, generator=generator))
    return torch.stack(pictures)


def tensors_of(tree: Tree) -> dict[str, torch.Tensor]:
    """One pack as the model takes it."""
    pack = collate_pack(tree, None)
    if tree.images:
        pack["pixel_values"] = pixels_of(tree.images)
    return pack


def random_pack(config: Any, *, seed: int) -> dict[str, torch.Tensor]:
    """One pack: two pictures with two conversations each, and a text-only sample."""
    rng = np.random.default_rng(seed)
    samples = [
        random_encoded(rng, image=image, image_token_id=config.image_token_id, patches=config.image_seq_length)
        for image in ("a", "a", "b", "b", None)
    ]
    trees = grow_trees(samples, image_token_id=config.image_token_id, token_budget=1000)
    (pack,) = pack_trees(trees, token_budget=1000)
    return tensors_of(pack)
