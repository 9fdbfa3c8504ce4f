"""Packed trees: conversations about one picture share its prefix, and many trees share one sequence.

Conversations about the same image begin with the same tokens (system text, image tokens). A *tree* computes that
prefix once; each conversation is a *branch* that sees the prefix and itself. Everything here is exact: a branch's
hidden states, loss and gradients equal those of the conversation run alone.

Shapes: T tokens of a tree or pack, S supervised positions of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qllava.data.encode import Encoded

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tree:
    """One shared prefix and its branches, or several trees laid end to end (a pack); the fields are the same.

    Attributes:
        input_ids: (T,) token ids.
        position_ids: (T,) place of each token in its own conversation.
        segment: (T,) segment of each token: the prefix or one branch.
        parent: (segments,) segment that is also visible; itself where there is none.
        source: (S,) index of the token whose hidden state predicts ...
        target: (S,) ... this token id. The last prefix token may predict several.
        images: names of the pictures, in the order of their image tokens.
        samples: how many conversations are inside.
    """

    input_ids: Ints
    position_ids: Ints
    segment: Ints
    parent: Ints
    source: Ints
    target: Ints
    images: tuple[str, ...]
    samples: int

    def __len__(self) -> int:
        """Tokens."""
        return len(self.input_ids)

    @property
    def tokens_alone(self) -> int:
        """Tokens that the same conversations have without sharing: a prefix counts once for each of its branches."""
        lengths = np.bincount(self.segment, minlength=len(self.parent))
        branches = self.parent != np.arange(len(self.parent))
        prefixes = np.zeros(len(self.parent), dtype=bool)
        prefixes[self.parent[branches]] = True
        return int(lengths[~prefixes].sum() + lengths[self.parent[branches]].sum())


def grow_trees(
    conversations: Sequence[Encoded], *, image_token_id: int, token_budget: int, share: bool = True
) -> list[Tree]:
    """Trees of one global batch, in the order in which their pictures first appear.

    Args:
        conversations: the encoded samples of the batch.
        image_token_id: the prefix must hold all image tokens, or nothing is shared.
        token_budget: no tree is longer, unless a single conversation is; branches spill into another tree.
        share: False gives every conversation a tree of its own (the slow twin, `--no-pack`).
    """
    groups: dict[object, list[Encoded]] = {}
    for index, conversation in enumerate(conversations):
        alone = not share or not conversation.images
        groups.setdefault(index if alone else conversation.images, []).append(conversation)
    trees: list[Tree] = []
    for group in groups.values():
        prefix = shared_prefix(group, image_token_id=image_token_id)
        for branches in _spill(group, prefix=prefix, token_budget=token_budget):
            trees.append(grow_tree(branches, prefix=prefix if len(branches) > 1 else 0))
    return trees


def shared_prefix(group: Sequence[Encoded], *, image_token_id: int) -> int:
    """Length of the common token prefix; 0 when it does not hold every image token of every member."""
    if len(group) < 2:
        return 0
    first = np.asarray(group[0].input_ids)
    shared = len(first)
    for other in group[1:]:
        ids = np.asarray(other.input_ids[:shared])
        same = first[: len(ids)] == ids
        shared = len(ids) if same.all() else int(np.argmin(same))
        shared = min(shared, len(ids))
    for member in group:
        if image_token_id in member.input_ids[shared:]:
            return 0
    return shared


def grow_tree(group: Sequence[Encoded], *, prefix: int) -> Tree:
    """One tree: the first `prefix` tokens once, then each member's rest as a branch. `prefix=0` needs one member."""
    ids: list[list[int]] = []
    positions: list[Ints] = []
    segments: list[Ints] = []
    parent: list[int] = []
    source: list[int] = []
    target: list[int] = []
    if prefix:
        ids.append(group[0].input_ids[:prefix])
        positions.append(np.arange(prefix))
        segments.append(np.zeros(prefix, dtype=np.int64))
        parent.append(0)
    length = prefix
    for member in group:
        rest = member.input_ids[prefix:]
        segment = len(parent)
        for position, trained in enumerate(member.assistant_mask):
            if trained and position > 0:
                before = position - 1
                source.append(before if before < prefix else length + before - prefix)
                target.append(member.input_ids[position])
        ids.append(rest)
        positions.append(np.arange(prefix, prefix + len(rest)))
        segments.append(np.full(len(rest), segment))
        parent.append(0 if prefix else segment)
        length += len(rest)
    return Tree(
        input_ids=np.concatenate([np.asarray(part, dtype=np.int64) for part in ids]),
        position_ids=np.concatenate(positions).astype(np.int64),
        segment=np.concatenate(segments).astype(np.int64),
        parent=np.asarray(parent, dtype=np.int64),
        source=np.asarray(source, dtype=np.int64),
        target=np.asarray(target, dtype=np.int64),
        images=group[0].images,
        samples=len(group),
    )


def join_trees(trees: Sequence[Tree]) -> Tree:
    """Lay trees end to end into one pack; no token sees another tree."""
    token_offset = np.cumsum([0, *(len(tree) for tree in trees)])
    segment_offset = np.cumsum([0, *(len(tree.parent) for tree in trees)])
    return Tree(
        input_ids=np.concatenate([tree.input_ids for tree in trees]),
        position_ids=np.concatenate([tree.position_ids for tree in trees]),
        segment=np.concatenate([tree.segment + segment_offset[i] for i, tree in enumerate(trees)]),
        parent=np.concatenate([tree.parent + segment_offset[i] for i, tree in enumerate(trees)]),
        source=np.concatenate([tree.source + token_offset[i] for i, tree in enumerate(trees)]),
        target=np.concatenate([tree.target for tree in trees]),
        images=tuple(image for tree in trees for image in tree.images),
        samples=sum(tree.samples for tree in trees),
    )


def _spill(group: Sequence[Encoded], *, prefix: int, token_budget: int) -> list[list[Encoded]]:
    """Cut a group so that each part fits the budget; without a shared prefix every member stands alone."""
    if prefix == 0:
        return [[member] for member in group]
    parts: list[list[Encoded]] = []
    length = 0
    for member in group:
        rest = len(member.input_ids) - prefix
        if not parts or length + rest > token_budget:
            parts.append([])
            length = prefix
        parts[-1].append(member)
        length += rest
    return parts
