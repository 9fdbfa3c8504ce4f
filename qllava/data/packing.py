"""Which trees share a sequence: best-fit-decreasing into a token budget."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from qllava.data.encode import Encoded
from qllava.data.trees import Tree, grow_trees, join_trees


def pack_samples(samples: Sequence[Encoded], *, image_token_id: int, token_budget: int | None) -> list[Tree]:
    """The sequences of one global batch: packed trees of at most `token_budget` tokens, or one sample each for None.

    The second is the slow twin that the first must equal (`--no-pack`); it needs no mask, since nothing is shared.
    """
    if token_budget is None:
        longest = max((len(sample.input_ids) for sample in samples), default=0)
        return grow_trees(samples, image_token_id=image_token_id, token_budget=longest, share=False)
    trees = grow_trees(samples, image_token_id=image_token_id, token_budget=token_budget)
    return pack_trees(trees, token_budget=token_budget)


def pack_trees(trees: Sequence[Tree], *, token_budget: int) -> list[Tree]:
    """Join trees into packs of at most `token_budget` tokens; a longer tree is a pack of its own.

    Best fit decreasing: longest first, each into the fullest pack that still holds it. Deterministic; what shares a
    pack changes the speed and nothing else.
    """
    order = sorted(range(len(trees)), key=lambda index: (-len(trees[index]), index))
    packs: list[list[int]] = []
    # (free tokens, pack), sorted: the first entry with enough room is the best fit.
    free: list[tuple[int, int]] = []
    for index in order:
        length = len(trees[index])
        place = bisect.bisect_left(free, (length, -1))
        if place < len(free):
            room, pack = free.pop(place)
            packs[pack].append(index)
        else:
            room, pack = max(token_budget, length), len(packs)
            packs.append([index])
        bisect.insort(free, (room - length, pack))
    return [join_trees([trees[index] for index in sorted(pack)]) for pack in packs]
