"""Left, right, above, below and places in the frame, as an answer states them, against the boxes."""

from __future__ import annotations

import re

from qllava.datagen.captions import Mention
from qllava.datagen.clauses import Clause
from qllava.datagen.facts import Facts
from qllava.datagen.lessons import Rejection

WRONG_RELATION = "contradicts the boxes: relation"
PLACE_MARGIN = 0.12
"""Share of the frame by which an object's centre must be past the middle to deny that it is on the other side."""

_STANDING = (
    r"(?:(?:is|are|appears|sits|stands|lies|rests|that|which|can|be|seen|found|sitting|standing|lying|located|"
    r"positioned|placed|situated|visible|resting|parked|directly|just|slightly|immediately|clearly|also|far|further) )*"
)
_SIDE = r"(?:(?:to|on) (?:the )?)?(?P<side>left|right) of (?:the |a |an |this |that )?"
_HEIGHT = r"(?P<side>above|below) (?:the |a |an |this |that )?"
_BETWEEN = re.compile(rf"^{_STANDING}(?:{_SIDE}|{_HEIGHT.replace('side', 'height')})$")
# "To the left of the cat, there is a dog."
_INVERTED = re.compile(
    r"^(?:, )?(?:is|are|sits|stands|lies|there is|you can see|we can see|i see|we see)(?: (?:a|an|the|one))? $"
)
_BEFORE_INVERTED = re.compile(
    r"^(?:yes , )?(?:(?:to|on) the (?P<side>left|right) of|(?P<height>above|below)) (?:the |a |an )?$"
)
_FRAME = (
    r"(?:side |part |half |area |section |edge |corner |hand side )?"
    r"of the (?:image|picture|photo|photograph|frame|scene)\b"
)
_PLACED = re.compile(
    rf"^{_STANDING}(?:(?:in|on|at|to|towards?) )(?:the )(?:far |very )?(?P<place>left|right|top|bottom) {_FRAME}"
)
_PLACED_FIRST = re.compile(
    rf"^(?:on|in|at|to) the (?:far |very )?(?P<place>left|right|top|bottom) {_FRAME} (?:, )?"
    r"(?:there is|we see|i see|we can see|you can see|is|sits|stands)(?: (?:a|an|the|one))? $"
)
_ORDER = {"left": (0, False), "right": (0, True), "above": (1, False), "below": (1, True)}
_PLACE = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}


def relation_fault(clause: Clause, facts: Facts) -> Rejection | None:
    """The first order or place that a plain clause states and the boxes certainly deny."""
    known = [m for m in clause.mentions if m.sense != "maybe" and m.category in facts.unique and not m.plural]
    for mention in known:
        fault = _misplaced(clause, mention, facts)
        if fault is not None:
            return fault
    for one in known:
        for other in known:
            if one.end <= other.start and one.category != other.category:
                stated = _stated(clause, one, other)
                if stated is not None and (pair := _denied(*stated, facts)) is not None:
                    first, second, word = pair
                    return _fault(clause, f"the boxes put the {first} {word} the {second}")
    return None


def _words(clause: Clause, start: int, end: int) -> str:
    """The words between two places, each followed by a blank."""
    return "".join(f"{token} " for token in clause.tokens[start:end])


def _stated(clause: Clause, one: Mention, other: Mention) -> tuple[str, str, str] | None:
    """(first, side, second) of "FIRST is to the SIDE of SECOND", in either order of the words."""
    if _modified(clause, one) or _modified(clause, other):
        return None
    between = _words(clause, one.end, other.start)
    found = _BETWEEN.match(between)
    if found is not None:
        return one.category, found["side"] or found["height"], other.category
    before = _BEFORE_INVERTED.match(_words(clause, 0, one.start))
    if before is not None and _INVERTED.match(between):
        return other.category, before["side"] or before["height"], one.category
    return None


def _modified(clause: Clause, mention: Mention) -> bool:
    """Whether the noun belongs to another one: "the roof of the car", "the back of the truck"."""
    before = clause.tokens[max(0, mention.start - 3) : mention.start]
    after = clause.tokens[mention.end] if mention.end < len(clause.tokens) else "."
    # Right before: "left of the car" is the relation itself.
    belongs = "of" in before and not {"left", "right"} & set(clause.tokens[max(0, mention.start - 4) : mention.start])
    return mention.another or belongs or after == "of"


def _denied(first: str, side: str, second: str, facts: Facts) -> tuple[str, str, str] | None:
    """(first, word, second) as the boxes certainly have it, where that is the other way round."""
    axis, swapped = _ORDER[side]
    low, high = (second, first) if swapped else (first, second)
    certain = facts.left_of if axis == 0 else facts.above
    if (high, low) not in certain:
        return None
    return high, ("left of", "above")[axis], low


def _misplaced(clause: Clause, mention: Mention, facts: Facts) -> Rejection | None:
    found = _PLACED.match(_words(clause, mention.end, len(clause.tokens)))
    if found is None:
        found = _PLACED_FIRST.match(_words(clause, 0, mention.start))
    if found is None or _modified(clause, mention):
        return None
    axis, sign = _PLACE[found["place"]]
    box = facts.unique[mention.category]
    low, high = (box.x1, box.x2) if axis == 0 else (box.y1, box.y2)
    # The whole box lies past the middle, its centre by a margin.
    past = low > 0.5 if sign > 0 else high < 0.5
    if not past or sign * (box.center[axis] - 0.5) < PLACE_MARGIN:
        return None
    where = (("right", "left"), ("bottom", "top"))[axis][0 if sign > 0 else 1]
    return _fault(clause, f"its box is in the {where} half")


def _fault(clause: Clause, why: str) -> Rejection:
    return Rejection(WRONG_RELATION, f"{' '.join(clause.text.split())[:100]!r}: {why}")
