"""Captions held against boxes and against each other: which of them say nothing that something else denies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from itertools import combinations

from qllava.datagen import lexicon
from qllava.datagen.captions import Caption, Mention
from qllava.types import Box

# What one body does of these, it does alone; "smiling" goes with all of them.
_POSTURES = frozenset(lexicon.words("sitting standing lying walking running flying swimming jumping"))


def agreeing_captions(
    captions: Sequence[Caption],
    boxes: Mapping[str, Sequence[Box]],
    open_ended: Set[str],
    unique: Set[str],
    ordered: Set[tuple[str, str, int]],
) -> tuple[str, ...]:
    """The texts of the captions that boxes and other captions bear out.

    `open_ended` are categories whose number is not known, `unique` those of which there is one; `ordered` holds
    (first, second, axis) pairs of which the boxes are certain.
    """
    return tuple(
        caption.text
        for caption in captions
        if not _disagrees(caption, boxes, open_ended)
        and not any(pair in ordered for pair in stated_otherwise([caption], boxes))
        and not any(_clashes(caption, other, unique) for other in captions)
    )


def leaves_room(caption: Caption, category: str, count: int) -> bool:
    """Whether a caption leaves room for exactly `count` of a category."""
    same = [mention for mention in caption.mentions_of(category) if mention.sense == "same"]
    kinds = [mention for mention in caption.mentions_of(category) if mention.sense == "kind"]
    both = same + kinds
    if any(m.number == 0 or (m.number is not None and m.number > 1 and not m.plural) for m in both):
        return False  # "no dogs", "a two car garage"
    if count == 1:
        more = any(m.another or (m.plural and m.number is None) for m in both)
        shades = len({m.colors for m in both if m.colors})
        if more or shades > 1:
            return False
    stated = [1 if mention.number is None else mention.number for mention in same]
    if any(mention.number is not None for mention in same):
        if count not in (sum(stated), max(stated)):
            return False
    elif sum(mention.fresh for mention in same) > count:
        return False
    return sum(mention.number or mention.fresh for mention in kinds) <= count


def states_number(caption: Caption, category: str, count: int) -> bool:
    """Whether a caption says of itself that there are `count` of a category: "two dogs", "a dog" for one."""
    total = 0
    for mention in caption.mentions_of(category):
        if mention.sense == "maybe" or mention.vague or (mention.plural and mention.number is None):
            return False
        total += mention.fresh if mention.number is None else mention.number
    return total == count


def is_misplaced(box: Box, mentions: Sequence[Mention]) -> bool:
    """Whether a caption puts the object in the other half of the frame than its box."""
    x, y = box.center
    for mention in mentions:
        for stated, center in ((mention.across, x), (mention.down, y)):
            if stated in {"left", "top"} and center > 0.5:
                return True
            if stated in {"right", "bottom"} and center < 0.5:
                return True
            if stated == "middle" and not 0.2 <= center <= 0.8:
                return True
    return False


def stated_otherwise(captions: Sequence[Caption], known: Mapping[str, object]) -> set[tuple[str, str, int]]:
    """(first, second, axis) orders that a caption states the other way round."""
    denied: set[tuple[str, str, int]] = set()
    words = {"left": (0, False), "right": (0, True), "above": (1, False), "below": (1, True)}
    for caption in captions:
        for one, other in combinations(caption.mentions, 2):
            if one.category == other.category or one.end > other.start:
                continue
            for word in caption.tokens[one.end : other.start]:
                if word in words:
                    axis, swapped = words[word]
                    pair = (one.category, other.category) if swapped else (other.category, one.category)
                    if pair[0] in known and pair[1] in known and not (one.across or one.down):
                        denied.add((*pair, axis))
    return denied


def _disagrees(caption: Caption, boxes: Mapping[str, Sequence[Box]], open_ended: Set[str]) -> bool:
    """Whether a caption says something about a listed category that the boxes do not bear out."""
    for mention in caption.mentions:
        name, found = mention.category, boxes.get(mention.category, ())
        if mention.sense == "maybe":
            continue
        if not found or mention.number == 0 or all(is_misplaced(box, [mention]) for box in found):
            return True
        if name in open_ended:
            continue
        if (mention.vague and len(found) < 2) or not leaves_room(caption, name, len(found)):
            return True
    return False


def _clashes(caption: Caption, other: Caption, unique: Set[str]) -> bool:
    """Whether two captions give one and the same object different colours or postures; which is right stays open."""
    for name in unique:
        mine = [mention for mention in caption.mentions_of(name) if mention.sense != "maybe"]
        theirs = [mention for mention in other.mentions_of(name) if mention.sense != "maybe"]
        for one in mine:
            for two in theirs:
                shades = [lexicon.confusable(a, b) for a in one.colors for b in two.colors]
                postures = {one.action, two.action} & _POSTURES
                if (shades and not any(shades)) or len(postures) > 1:
                    return True
    return False
