"""Answers against the annotations: numbers, objects and colours that captions and boxes certainly deny.

Built on the same facts as the template teacher, which claim nothing where captions and boxes disagree; of an answer,
only plain statements about the whole picture are read (see `clauses`). What cannot be read for sure passes.
"""

from __future__ import annotations

from collections.abc import Iterator

from qllava.datagen import lexicon
from qllava.datagen.captions import Mention
from qllava.datagen.clauses import FRAME_TAIL, Clause, said_number
from qllava.datagen.facts import Facts
from qllava.datagen.grammar import counted, indefinite
from qllava.datagen.lessons import Rejection
from qllava.datagen.relation_checks import relation_fault

WRONG_COUNT = "contradicts the boxes: count"
WRONG_OBJECT = "contradicts the annotations: object"
WRONG_COLOR = "contradicts the captions: color"

# Seldom labelled one by one, or words with another common meaning ("the bed of the truck", "a tie in the game").
NOT_SURELY_ABSENT = frozenset(
    lexicon.words(
        "orange tie cup bowl bed mouse remote train chair bottle book knife sink kite clock handbag backpack bench "
        "keyboard skis vase tv"
    )
) | {"baseball bat", "sports ball", "dining table", "potted plant", "wine glass", "cell phone"}
# Kinds that mean nothing else: a pitcher holds water, a batter becomes a cake, a baby may be an elephant.
_SURE_KINDS = frozenset(
    lexicon.words(
        "man men woman women boy boys girl girls child children gentleman lady ladies puppy puppies kitten "
        "kittens pony ponies lamb lambs"
    )
)
_DISJOINT = ({"man", "men"}, {"woman", "women"}, {"boy", "boys"}, {"girl", "girls"})
_SEVERAL = frozenset(lexicon.words("several many multiple numerous various"))
_BEING = frozenset({"in", "on", "at", "visible", "seen", "present"})
_NOT_THERE = frozenset({"for", "of", "to", "than", "into", "onto"})
_BESIDE = frozenset({"next", "close", "adjacent"})


def statement_fault(clause: Clause, facts: Facts) -> Rejection | None:
    """What a clause states and the annotations certainly deny; most faults name the object and the boxes' number."""
    if clause.plain:
        return (
            _too_many(clause, facts)
            or _too_few(clause, facts)
            or _invented(clause, facts)
            or _wrong_color(clause, facts)
            or relation_fault(clause, facts)
        )
    return _denied(clause, facts) if clause.negated else None


def _mentions(clause: Clause) -> Iterator[Mention]:
    """Mentions that are certainly meant, and not part of a longer name that is not known ("dog park")."""
    for mention in clause.mentions:
        after = clause.tokens[mention.end] if mention.end < len(clause.tokens) else "."
        known = lexicon.AFTER_NOUN | lexicon.ACTIONS | lexicon.OTHER_VERBS | FRAME_TAIL
        if mention.sense != "maybe" and (not after[:1].isalnum() or after in known or after.endswith("ing")):
            yield mention


def boxes_hold(count: int, category: str) -> str:
    """What the annotations say of a number."""
    return f"the boxes hold {counted(count, category)}"


def rejection(reason: str, clause: Clause, why: str) -> Rejection:
    """A rejection that quotes the clause."""
    return Rejection(reason, f"{' '.join(clause.text.split())[:100]!r}: {why}")


def _too_many(clause: Clause, facts: Facts) -> Rejection | None:
    """More of a category than there are boxes, one by one or summed over men, women, boys and girls."""
    sums: dict[str, dict[int, int]] = {}
    for mention in _mentions(clause):
        count = facts.counts.get(mention.category)
        first = phrase_start(clause, mention)
        before = clause.tokens[first - 1] if first > 0 else ""
        if count is None or before in {"for", "between", "other", "more", "another", "least", "of", "by"}:
            continue
        if mention.number is not None and mention.number > count and mention.plural:
            return rejection(WRONG_COUNT, clause, boxes_hold(count, mention.category))
        amount = set(clause.tokens[max(0, first) : mention.start])
        if count == 1 and mention.plural and amount & _SEVERAL:
            return rejection(WRONG_COUNT, clause, boxes_hold(count, mention.category))
        group = next((at for at, names in enumerate(_DISJOINT) if clause.tokens[mention.end - 1] in names), None)
        if group is not None and not mention.another:
            number = mention.number or (1 if mention.fresh else 0)
            groups = sums.setdefault(mention.category, {})
            groups[group] = max(groups.get(group, 0), number)
    for category, groups in sums.items():
        if sum(groups.values()) > facts.counts[category]:
            return rejection(WRONG_COUNT, clause, boxes_hold(facts.counts[category], category))
    return None


def phrase_start(clause: Clause, mention: Mention) -> int:
    """The index of the first of number, article and adjectives before a noun."""
    at = mention.start
    part = lexicon.ADJECTIVES | lexicon.ARTICLES | lexicon.COLORS.keys() | lexicon.VAGUE
    while at > 0 and (clause.tokens[at - 1] in part or said_number(clause.tokens[at - 1]) is not None):
        at -= 1
    return at


def _too_few(clause: Clause, facts: Facts) -> Rejection | None:
    """Fewer than there are boxes, where the clause counts all: "There are two dogs in the image."."""
    opened = clause.opened()
    for mention in clause.mentions[:1]:
        count = facts.counts.get(mention.category)
        if count is None or mention.sense != "same" or opened == 0 or mention.start != opened + 1:
            continue
        number = said_number(clause.tokens[opened])
        if number is not None and 0 < number < count and clause.of_the_frame(mention.end):
            return rejection(WRONG_COUNT, clause, boxes_hold(count, mention.category))
    return None


def _invented(clause: Clause, facts: Facts) -> Rejection | None:
    """A listed category that no caption and no box has, said to be there."""
    absent = set(facts.absent) - NOT_SURELY_ABSENT
    opened = clause.opened() > 0
    for mention in _mentions(clause):
        if mention.category not in absent or not surely_names(clause, mention):
            continue
        first = phrase_start(clause, mention)
        phrase = clause.tokens[first : mention.start]
        before = clause.tokens[first - 1] if first > 0 else ""
        introduced = mention.fresh or (mention.number or 0) > 0 or bool(set(phrase) & _SEVERAL)
        beside = before == "to" and first > 1 and clause.tokens[first - 2] in _BESIDE
        is_subject = first == 0 and (introduced or phrase[:1] == ("the",)) and _is_or_acts(clause, mention.end)
        if is_subject and phrase[:1] == ("the",) and mention.category == "person":
            continue  # "the person who took the picture"
        if is_subject or (opened and introduced and (beside or before not in _NOT_THERE)):
            return rejection(WRONG_OBJECT, clause, f"no caption and no box has {indefinite(mention.category)}")
    return None


def surely_names(clause: Clause, mention: Mention) -> bool:
    """Whether the word means the category and nothing else."""
    return mention.sense == "same" or clause.tokens[mention.end - 1] in _SURE_KINDS


def _is_or_acts(clause: Clause, at: int) -> bool:
    word = clause.tokens[at] if at < len(clause.tokens) else ""
    after = clause.tokens[at + 1] if at + 1 < len(clause.tokens) else ""
    return word in {"is", "are"} and (
        after.endswith("ing") or after in {"in", "on", "at", "visible", "seen", "present"}
    )


def _wrong_color(clause: Clause, facts: Facts) -> Rejection | None:
    """Another colour than the captions give an object that is alone of its kind."""
    for mention in _mentions(clause):
        color = facts.colors.get(mention.category)
        single = color is not None and mention.clean and len(mention.colors) == 1 and not mention.plural
        if not single or mention.another or color is None:
            continue
        said = next(iter(mention.colors))
        joined = clause.tokens[mention.end : mention.end + 6]
        if "and" in joined and any(token in lexicon.COLORS or token in lexicon.PATTERNS for token in joined):
            continue  # "the bus is red and has white stripes"
        if not lexicon.confusable(said, color):
            return rejection(WRONG_COLOR, clause, f"the captions say {color}")
    return None


def _denied(clause: Clause, facts: Facts) -> Rejection | None:
    """ "There are no dogs in the image." where a box has one."""
    opened = clause.opened()
    for mention in clause.mentions[:1]:
        said_no = opened > 0 and mention.start == opened + 1 and clause.tokens[opened] == "no"
        bare = said_no and mention.sense == "same" and clause.of_the_frame(mention.end)
        if bare and mention.category in facts.present:
            return rejection(WRONG_OBJECT, clause, f"a box has {indefinite(mention.category)}")
    return None
