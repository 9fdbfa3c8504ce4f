"""Short answers against the annotations: "How many dogs are there?" "Three." says something only as a pair."""

from __future__ import annotations

import re

from qllava.datagen import lexicon
from qllava.datagen.captions import CaptionReader, Mention
from qllava.datagen.clauses import FRAME_TAIL, Clause, clauses, said_number
from qllava.datagen.fact_checks import (
    NOT_SURELY_ABSENT,
    WRONG_COLOR,
    WRONG_COUNT,
    WRONG_OBJECT,
    boxes_hold,
    phrase_start,
    rejection,
    surely_names,
)
from qllava.datagen.facts import Facts
from qllava.datagen.grammar import indefinite
from qllava.datagen.lessons import Rejection
from qllava.datagen.relation_checks import relation_fault

_ANSWER_START = frozenset(
    lexicon.words(
        "there are is i we you can see the this in image picture photo scene a total of exactly it shows "
        "features contains has only just visible , yes depicts"
    )
)
_QUESTION_TAIL = FRAME_TAIL | frozenset(lexicon.words("are is do does could exactly appear ? it we"))
_COLOR_QUESTION = frozenset({"is", "the", "this", "of", "color", "colour"})
_MODAL = re.compile(r"\b(?:might|may|could|would|should|can|will|likely|probably|possibly)\b", re.IGNORECASE)
"""A question takes "the two dogs" for granted, whatever they might do."""
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def reply_fault(question: str, answer: str, facts: Facts, reader: CaptionReader) -> Rejection | None:
    """What a short answer to a question about a number, presence, colour or side says against the annotations."""
    asked, told = clauses(question, reader), clauses(answer, reader)
    if len(asked) != 1 or not told or not 1 <= len(asked[0].mentions) <= 2:
        return None
    ask, first = asked[0], told[0]
    mention = ask.mentions[0]
    fault: Rejection | None = None
    if len(ask.mentions) == 2:
        fault = _wrong_side(ask, first, facts, reader)
    elif mention.sense != "maybe":
        match ask.tokens:
            case ("how", "many", *_) if mention.start == 2 and set(ask.tokens[mention.end :]) <= _QUESTION_TAIL:
                fault = _wrong_number(first, mention, facts)
            case ("is" | "are", "there", *_) | (_, "you", "see", *_):
                fault = _wrong_presence(ask, first, mention, facts)
            case ("what" | "which", "color" | "colour", *_) | ("what", "is", "the", "color" | "colour", "of", *_) if (
                len(told) == 1
            ):
                fault = _wrong_color(ask, first, mention, facts)
    return fault


def premise_fault(question: str, facts: Facts, reader: CaptionReader) -> Rejection | None:
    """A question that takes more for granted than there is: "What are the two dogs doing?" of one dog."""
    for clause in clauses(_MODAL.sub(" ", question.replace("?", "")), reader):
        for mention in clause.mentions if clause.plain else ():
            count = facts.counts.get(mention.category)
            number = mention.number
            if count is None or number is None or number <= count or not mention.plural or mention.sense == "maybe":
                continue
            first = phrase_start(clause, mention)
            if clause.tokens[first] == "the" and said_number(clause.tokens[first + 1]) == number:
                return rejection(WRONG_COUNT, clause, boxes_hold(count, mention.category))
    return None


def _asks_the_frame(ask: Clause, at: int) -> bool:
    return set(ask.tokens[at:]) <= FRAME_TAIL | {"?"}


def _wrong_number(first: Clause, mention: Mention, facts: Facts) -> Rejection | None:
    count = facts.counts.get(mention.category)
    at = next((at for at, token in enumerate(first.tokens) if said_number(token) is not None), None)
    if count is None or at is None or not (first.plain or first.negated):
        return None
    number = said_number(first.tokens[at])
    if number is None or number == count or not set(first.tokens[:at]) <= _ANSWER_START:
        return None
    others = any(said_number(token) is not None for token in first.tokens[at + 1 :])
    again = [other for other in first.mentions if other.category == mention.category]
    named = next((other for other in again if other.start == at + 1), None)
    end = at + 1 if named is None else named.end
    closed = end >= len(first.tokens) or not first.tokens[end][:1].isalnum() or first.of_the_frame(end)
    more = number > count and (closed or named is not None)
    fewer = number < count and mention.sense == "same" and closed and not others and len(again) <= 1
    return rejection(WRONG_COUNT, first, boxes_hold(count, mention.category)) if more or fewer else None


def _wrong_presence(ask: Clause, first: Clause, mention: Mention, facts: Facts) -> Rejection | None:
    if not _asks_the_frame(ask, mention.end):
        return None
    yes, no = first.tokens[:1] == ("yes",), first.tokens[:1] == ("no",)
    bare = set(ask.tokens[2 : mention.start]) <= {"see", "a", "an", "any", "the"}
    absent = mention.category in set(facts.absent) - NOT_SURELY_ABSENT and surely_names(ask, mention)
    if yes and absent:
        return rejection(WRONG_OBJECT, ask, f"answered yes; no caption and no box has {indefinite(mention.category)}")
    if no and bare and mention.sense == "same" and mention.category in facts.present:
        return rejection(WRONG_OBJECT, ask, f"answered no; a box has {indefinite(mention.category)}")
    return None


def _wrong_color(ask: Clause, first: Clause, mention: Mention, facts: Facts) -> Rejection | None:
    color = facts.colors.get(mention.category)
    whole = set(ask.tokens[1 : mention.start]) <= _COLOR_QUESTION and _asks_the_frame(ask, mention.end)
    if color is None or not first.plain or mention.plural or not whole:
        return None
    said = {lexicon.COLORS[token] for token in first.tokens if token in lexicon.COLORS}
    mixed = any(token in lexicon.PATTERNS for token in first.tokens)
    others = any(other.category != mention.category for other in first.mentions if other.sense != "maybe")
    if len(said) != 1 or mixed or others or lexicon.confusable(next(iter(said)), color):
        return None
    return rejection(WRONG_COLOR, first, f"the captions say {color}")


def _wrong_side(ask: Clause, first: Clause, facts: Facts, reader: CaptionReader) -> Rejection | None:
    """The question and its answer as one statement: "the dog is left of the cat"."""
    one, other = ask.mentions
    words = set(ask.tokens)
    if ask.tokens[:2] not in {("is", "the"), ("where", "is"), ("left", "or"), ("above", "or")}:
        return None
    sides = words & _OPPOSITE.keys()
    answered = set(first.tokens) & _OPPOSITE.keys()
    if len(sides) == 2 and len(answered) == 1 and first.plain and not first.mentions:
        side = answered.pop()
    elif len(sides) == 1 and first.tokens[:1] in {("yes",), ("no",)} and one.end < other.start:
        side = sides.pop()
        between = ask.tokens[one.end : other.start]
        if side not in between or set(between) - {side, "to", "on", "the", "of", "located", "positioned", "directly"}:
            return None
        side = side if first.tokens[0] == "yes" else _OPPOSITE[side]
    else:
        return None
    joined = f"{side} of" if side in {"left", "right"} else side
    names = [" ".join(ask.tokens[mention.start : mention.end]) for mention in ask.mentions]
    return relation_fault(clauses(f"the {names[0]} is {joined} the {names[1]}", reader)[0], facts)
