"""The fact extractor: what certainly follows from one picture's captions and boxes.

Everything here is a claim that a careful reader of both would sign. Where captions and boxes disagree, where a crowd
or an empty box makes a number uncertain, or where an object stands near a border, there is no claim. The template
teacher speaks from these facts; a language model's answers can be checked against them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from qllava.datagen import lexicon
from qllava.datagen.agreement import agreeing_captions, is_misplaced, leaves_room, stated_otherwise, states_number
from qllava.datagen.captions import Caption, CaptionReader, Mention
from qllava.datagen.grammar import countable, plural
from qllava.datagen.sources import Instance, Scene
from qllava.types import Box

MAX_COUNT = 10
"""Annotators box about ten of a kind one by one; above that a number is an estimate."""
THIRDS_MARGIN = 0.04
"""Share of the frame on each side of a third's border in which no position is claimed."""
MAX_EXTENT = 0.5
"""An object wider (higher) than this share of the frame is at no one place in it."""
RELATION_MARGIN = 0.1
"""Least distance of two centres, as a share of the frame, for left, right, above or below."""
RELATION_OVERLAP = 0.25
"""Most overlap of two boxes along the axis of a relation, as a share of the smaller one."""
LARGER_RATIO = 1.3
"""Least ratio of two outlines' areas, and of their boxes' areas, for "larger"."""
LARGER_BOX_RATIO = 2.0
"""The same where only boxes are known: a triangle fills half of its box, a square all of it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Certain statements about one picture; names are categories.

    `counts` 1 to 10; `unique` the box of each object that is alone of its kind; `colors` of unique objects; `colored`
    (color, category) pairs that are there; `sole` colour -> the only labelled object that has it; `across` and `down`
    the third of the frame; `left_of` and `above` ordered pairs; `larger` ordered pairs; `present` and `absent`
    categories; `doubts` category -> why some claims about it are not made; `agreeing` captions that the boxes bear out.
    """

    counts: Mapping[str, int]
    unique: Mapping[str, Box]
    colors: Mapping[str, str]
    colored: tuple[tuple[str, str], ...]
    sole: Mapping[str, str]
    actions: Mapping[str, str]
    across: Mapping[str, str]
    down: Mapping[str, str]
    left_of: tuple[tuple[str, str], ...]
    above: tuple[tuple[str, str], ...]
    larger: tuple[tuple[str, str], ...]
    present: tuple[str, ...]
    absent: tuple[str, ...]
    doubts: Mapping[str, str]
    agreeing: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """The facts as plain JSON values, for the provenance record; `absent` only as a number, it is long."""
        return {
            "counts": dict(self.counts),
            "colors": dict(self.colors),
            "colored": [list(pair) for pair in self.colored],
            "actions": dict(self.actions),
            "across": dict(self.across),
            "down": dict(self.down),
            "left_of": [list(pair) for pair in self.left_of],
            "above": [list(pair) for pair in self.above],
            "larger": [list(pair) for pair in self.larger],
            "present": list(self.present),
            "absent": len(self.absent),
            "doubts": dict(self.doubts),
        }


def extract_facts(scene: Scene, reader: CaptionReader) -> Facts:
    """All facts of one scene; `reader` must know the scene's categories."""
    captions = [reader.read(text) for text in scene.captions]
    boxes: dict[str, list[Box]] = {}
    for instance in scene.instances:
        boxes.setdefault(instance.category, []).append(instance.box)
    uncountable = {i.category for i in scene.instances if i.crowd or i.box.area <= 0.0 or not countable(i.category)}
    mentions: dict[str, list[Mention]] = {}
    for caption in captions:
        for mention in caption.mentions:
            mentions.setdefault(mention.category, []).append(mention)

    doubts = _doubts(boxes, uncountable, captions, scene.exhaustive)
    denied = {name for name in boxes if any(m.number == 0 for m in mentions.get(name, ()) if m.sense == "same")}
    present = tuple(sorted(name for name in boxes if name not in denied))
    counts = {name: len(boxes[name]) for name in present if name not in doubts}
    unique = {name: boxes[name][0] for name, count in counts.items() if count == 1}
    colors = {name: color for name in unique if (color := _color(name, mentions.get(name, ()))) is not None}
    misplaced = {name for name, box in unique.items() if is_misplaced(box, mentions.get(name, ()))}
    placed = {name: box for name, box in unique.items() if name not in misplaced}
    denied_pairs = stated_otherwise(captions, placed)
    single = {name: found[0] for name, found in boxes.items() if len(found) == 1 and name not in uncountable}
    ordered = {(*pair, axis) for axis in (0, 1) for pair in _ordered(single, axis, set())}
    return Facts(
        counts=counts,
        unique=unique,
        colors=colors,
        colored=_colored(counts, colors, mentions),
        sole=_sole(boxes, colors, captions),
        actions={name: action for name in unique if (action := _action(mentions.get(name, ()))) is not None},
        across=_thirds(placed, axis=0, names=("left", "middle", "right")),
        down=_thirds(placed, axis=1, names=("top", "middle", "bottom")),
        left_of=_ordered(placed, axis=0, denied=denied_pairs),
        above=_ordered(placed, axis=1, denied=denied_pairs),
        larger=_larger([instance for instance in scene.instances if instance.category in unique]),
        present=present,
        absent=_absent(scene, boxes, mentions, captions),
        doubts=doubts,
        agreeing=agreeing_captions(captions, boxes, uncountable, set(unique), ordered),
    )


def _doubts(
    boxes: Mapping[str, Sequence[Box]], uncountable: set[str], captions: Sequence[Caption], exhaustive: bool
) -> dict[str, str]:
    """Why a category's number is not certain, and so nothing that needs it.

    A source that is not exhaustive marks no crowds either (LLaVA's context files): one of its boxes may hold many, and
    a number counts only where a caption states it too.
    """
    doubts: dict[str, str] = {}
    for name, found in sorted(boxes.items()):
        if name in uncountable:
            doubts[name] = "a crowd, an empty box or a word that is not counted"
        elif len(found) > MAX_COUNT:
            doubts[name] = f"more than {MAX_COUNT} boxes"
        elif any(_vague(caption, name) or not leaves_room(caption, name, len(found)) for caption in captions):
            doubts[name] = f"{len(found)} boxed, which a caption does not bear out"
        elif not exhaustive and not any(states_number(caption, name, len(found)) for caption in captions):
            doubts[name] = "a box may hold several here, and no caption states the number"
    return doubts


def _vague(caption: Caption, category: str) -> bool:
    """Whether a caption speaks of an amount without a number; annotators may have boxed only a part of it."""
    return any(mention.vague and mention.sense != "maybe" for mention in caption.mentions_of(category))


def _color(category: str, mentions: Sequence[Mention]) -> str | None:
    """The one colour that captions give an object that is alone of its kind."""
    if category in lexicon.NO_COLOR or any(not mention.clean for mention in mentions):
        return None
    names = frozenset[str]().union(*(mention.colors for mention in mentions))
    said = any(mention.colors for mention in mentions if mention.sense != "maybe")
    return next(iter(names)) if said and len(names) == 1 else None


def _colored(
    counts: Mapping[str, int], colors: Mapping[str, str], mentions: Mapping[str, Sequence[Mention]]
) -> tuple[tuple[str, str], ...]:
    pairs = {(color, name) for name, color in colors.items()}
    for name, count in counts.items():
        if count > 1 and name not in lexicon.NO_COLOR:
            said = {
                next(iter(mention.colors))
                for mention in mentions.get(name, ())
                if mention.clean and mention.sense != "maybe" and len(mention.colors) == 1
            }
            if len(said) <= count:
                pairs.update((color, name) for color in said)
    return tuple(sorted(pairs))


def _sole(boxes: Mapping[str, Sequence[Box]], colors: Mapping[str, str], captions: Sequence[Caption]) -> dict[str, str]:
    """Colours that exactly one labelled object has; needs the colour of every labelled object."""
    if set(boxes) != set(colors):
        return {}
    sole: dict[str, str] = {}
    for name, color in colors.items():
        if any(other != name and lexicon.confusable(color, shade) for other, shade in colors.items()):
            continue
        # Something unlabelled may have the colour too: every use of the word must belong to this object.
        if all(_uses(caption.tokens, color) == _uses_of(caption, name, color) for caption in captions):
            sole[color] = name
    return sole


def _uses(tokens: Sequence[str], color: str) -> int:
    return sum(lexicon.COLORS.get(token) == color for token in tokens)


def _uses_of(caption: Caption, category: str, color: str) -> int:
    return sum(mention.category == category and color in mention.colors for mention in caption.mentions)


def _action(mentions: Sequence[Mention]) -> str | None:
    actions = {mention.action for mention in mentions if mention.action is not None and mention.sense != "maybe"}
    return actions.pop() if len(actions) == 1 else None


def _extent(box: Box, axis: int) -> tuple[float, float]:
    return (box.x1, box.x2) if axis == 0 else (box.y1, box.y2)


def _thirds(unique: Mapping[str, Box], axis: int, names: tuple[str, str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, box in unique.items():
        low, high = _extent(box, axis)
        center = box.center[axis]
        if high - low > MAX_EXTENT:
            continue
        if min(abs(center - 1 / 3), abs(center - 2 / 3)) >= THIRDS_MARGIN:
            found[name] = names[min(2, int(center * 3))]
    return found


def _ordered(unique: Mapping[str, Box], axis: int, denied: set[tuple[str, str, int]]) -> tuple[tuple[str, str], ...]:
    """Pairs (first, second) where the first is certainly further left (axis 0) or further up (axis 1)."""
    pairs: list[tuple[str, str]] = []
    for first, second in permutations(unique, 2):
        low_a, high_a = _extent(unique[first], axis)
        low_b, high_b = _extent(unique[second], axis)
        apart = unique[second].center[axis] - unique[first].center[axis] >= RELATION_MARGIN
        overlap = min(high_a, high_b) - max(low_a, low_b)
        clear = overlap <= RELATION_OVERLAP * min(high_a - low_a, high_b - low_b)
        if apart and clear and (first, second, axis) not in denied:
            pairs.append((first, second))
    return tuple(pairs)


def _larger(unique: Sequence[Instance]) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    for one, other in permutations(unique, 2):
        ratio = one.box.area / other.box.area
        outlines = one.area / other.area if one.area is not None and other.area is not None else None
        if ratio >= LARGER_BOX_RATIO if outlines is None else min(ratio, outlines) >= LARGER_RATIO:
            pairs.append((one.category, other.category))
    return tuple(sorted(pairs))


def _absent(
    scene: Scene,
    boxes: Mapping[str, Sequence[Box]],
    mentions: Mapping[str, Sequence[Mention]],
    captions: Sequence[Caption],
) -> tuple[str, ...]:
    """Listed categories that have no box and no mention. A picture without any box may not have been labelled."""
    if not boxes or not scene.exhaustive:
        return ()
    words = Counter(token for caption in captions for token in caption.tokens)
    explained = {scene.categories[name] for name in boxes if name in scene.categories}
    hinted = {
        group
        for group in set(scene.categories.values()) - explained
        if group and (words[group] or words[plural(group)])
    }
    return tuple(
        sorted(
            name
            for name, group in scene.categories.items()
            if name not in boxes and name not in mentions and group not in hinted
        )
    )
