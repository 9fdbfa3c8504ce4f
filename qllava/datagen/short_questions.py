"""Facts as questions with one-word answers: candidates by type, and the choice among them for one picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from qllava.datagen import lexicon
from qllava.datagen.facts import Facts
from qllava.datagen.grammar import countable, indefinite, listed, number_word, plural, spelled
from qllava.datagen.lessons import Lesson

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Priors:
    """How often each category and colour occurs in the whole data set.

    The "no" of a yes/no pair is drawn with these weights, so that what is asked about does not give the answer away.
    """

    categories: Mapping[str, int]
    colors: Mapping[str, int]


_COUNT = ("How many {0} are there?", "How many {0} can you see?", "How many {0} are in the picture?")
_COLOR = ("What color is the {0}?", "Which color is the {0}?", "What is the color of the {0}?")
_THING = ("What is {0}?", "Which object is {0}?", "What is the {0} object?")
_ONE = ("Is there {0}?", "Do you see {0}?", "Can you see {0}?")
_ANY = ("Are there {0}?", "Do you see {0}?", "Can you see {0}?")
_ACROSS = (
    "Is the {0} on the left, in the middle or on the right?",
    "Where is the {0}: left, middle or right?",
    "Left, middle or right: where is the {0}?",
)
_DOWN = (
    "Is the {0} at the top, in the middle or at the bottom?",
    "Where is the {0}: top, middle or bottom?",
    "Top, middle or bottom: where is the {0}?",
)
_SIDE = (
    "Is the {0} left or right of the {1}?",
    "Is the {0} to the left or to the right of the {1}?",
    "Left or right: where is the {0} relative to the {1}?",
)
_HEIGHT = ("Is the {0} above or below the {1}?", "Above or below: where is the {0} relative to the {1}?")
_LARGEST = ("Which is larger, {0}?", "What is bigger, {0}?", "Which has the larger size, {0}?")

YES_NO_SHARE = 1 / 3


def short_questions(facts: Facts, number: int, priors: Priors, rng: Random) -> list[Lesson]:
    """Up to `number` questions about one picture, spread over the types, no text twice.

    "Yes" and "no" come in pairs of one type, so that each is as frequent as the other in every picture, every type
    and every data set. They are a third of `number` at most: open answers can be wrong in more ways, and teach more.
    """
    yes_no_room = max(2, round(number * YES_NO_SHARE))
    groups: list[list[list[Lesson]]] = [build(facts, priors, rng) for build in _BUILDERS]
    groups = [group for group in groups if group]
    rng.shuffle(groups)
    chosen: list[Lesson] = []
    asked: set[str] = set()
    while groups and len(chosen) < number:
        for group in groups:
            together = group.pop(0)
            is_pair = len(together) > 1
            if is_pair and yes_no_room < len(together):
                continue
            texts = {lesson.question for lesson in together}
            if len(chosen) + len(together) <= number and len(texts) == len(together) and not texts & asked:
                chosen.extend(together)
                asked |= texts
                yes_no_room -= len(together) if is_pair else 0
        groups = [group for group in groups if group]
    return chosen


def _counts(facts: Facts, priors: Priors, rng: Random) -> list[list[Lesson]]:
    names = _shuffled(facts.counts, rng)
    # Most objects are alone of their kind: where there are several, that is asked first in half of the pictures.
    if rng.random() < 0.5:
        names.sort(key=lambda name: facts.counts[name] == 1)
    return [
        [
            _lesson(
                "count",
                _COUNT,
                rng,
                str(facts.counts[name]),
                spelled(plural(name)),
                also=number_word(facts.counts[name]),
            )
        ]
        for name in names
    ]


def _colors(facts: Facts, priors: Priors, rng: Random) -> list[list[Lesson]]:
    return [[_lesson("color", _COLOR, rng, facts.colors[name], spelled(name))] for name in _shuffled(facts.colors, rng)]


def _things(facts: Facts, priors: Priors, rng: Random) -> list[list[Lesson]]:
    return [
        [_lesson("thing-by-color", _THING, rng, spelled(facts.sole[color]), color)]
        for color in _shuffled(facts.sole, rng)
    ]


def _presence(facts: Facts, priors: Priors, rng: Random) -> list[list[Lesson]]:
    pairs = zip(
        _shuffled(facts.present, rng), _weighted(facts.absent, priors.categories, rng, len(facts.present)), strict=False
    )
    return [[_yes_no("presence", yes, None, "yes", rng), _yes_no("presence", no, None, "no", rng)] for yes, no in pairs]


def _colored_presence(facts: Facts, priors: Priors, rng: Random) -> list[list[Lesson]]:
    pairs: list[list[Lesson]] = []
    used: set[tuple[str, str]] = set()
    for color, name in _shuffled(facts.colored, rng):
        no = _wrong_color(facts, priors, rng, color, name, used)
        if no is not None:
            used.add(no)
            kind = "colored-presence"
            pairs.append([_yes_no(kind, name, color, "yes", rng), _yes_no(kind, no[1], no[0], "no", rng)])
    return pairs


def _wrong_color(
    facts: Facts, priors: Priors, rng: Random, color: str, name: str, used: set[tuple[str, str]]
) -> tuple[str, str] | None:
    """A (colour, category) that is certainly not there, half of the time made of what is there."""
    here = {shade for shade, _ in facts.colored}
    swapped = [(shade, other) for other in facts.colors for shade in here]
    mixed = [(shade, other) for other in facts.colors for shade in priors.colors]
    absent = [
        (shade, other)
        for other in _weighted(facts.absent, priors.categories, rng, 3)
        if countable(other) and other not in lexicon.NO_COLOR
        for shade in (here | {color})
    ]
    pools = [swapped, mixed + absent] if rng.random() < 0.5 else [mixed + absent, swapped]
    for pool in pools:
        certain = sorted(
            pair
            for pair in set(pool) - used
            if pair[1] not in facts.colors or not lexicon.confusable(pair[0], facts.colors[pair[1]])
        )
        if certain:
            weights = [
                (1 + priors.colors.get(shade, 0)) * (1 + priors.categories.get(other, 0)) for shade, other in certain
            ]
            return rng.choices(certain, weights)[0]
    return None


def _positions(facts: Facts, priors: Priors, rng: Random) -> list[list[Lesson]]:
    claims: list[tuple[Sequence[str], str, str]] = [
        (_ACROSS, name, facts.across[name]) for name in sorted(facts.across)
    ]
    claims += [(_DOWN, name, facts.down[name]) for name in sorted(facts.down)]
    rng.shuffle(claims)
    return [[_lesson("position", words, rng, place, spelled(name))] for words, name, place in claims]


def _relations(facts: Facts, priors: Priors, rng: Random) -> list[list[Lesson]]:
    claims: list[tuple[Sequence[str], tuple[str, str], tuple[str, str]]]
    claims = [(_SIDE, pair, ("left", "right")) for pair in facts.left_of]
    claims += [(_HEIGHT, pair, ("above", "below")) for pair in facts.above]
    rng.shuffle(claims)
    asked: list[list[Lesson]] = []
    for words, (first, second), (forth, back) in claims:
        a, b, answer = (first, second, forth) if rng.random() < 0.5 else (second, first, back)
        asked.append([_lesson("relation", words, rng, answer, spelled(a), spelled(b))])
    return asked


def _largest(facts: Facts, priors: Priors, rng: Random) -> list[list[Lesson]]:
    asked: list[list[Lesson]] = []
    for larger, smaller in _shuffled(facts.larger, rng):
        names = [f"the {spelled(larger)}", f"the {spelled(smaller)}"]
        rng.shuffle(names)
        asked.append([_lesson("largest", _LARGEST, rng, spelled(larger), listed(names, last="or"))])
    return asked


_BUILDERS: tuple[Callable[[Facts, Priors, Random], list[list[Lesson]]], ...] = (
    _counts,
    _colors,
    _things,
    _presence,
    _colored_presence,
    _positions,
    _relations,
    _largest,
)
SHORT_TYPES = ("count", "color", "thing-by-color", "presence", "colored-presence", "position", "relation", "largest")


def _yes_no(kind: str, name: str, color: str | None, answer: str, rng: Random) -> Lesson:
    several = not countable(name) and name.endswith("s")  # scissors, but not broccoli
    wordings = _ANY if several else _ONE
    return _lesson(kind, wordings, rng, answer, indefinite(name, color))


def _lesson(kind: str, wordings: Sequence[str], rng: Random, answer: str, *words: str, also: str = "") -> Lesson:
    accepted = (answer, also) if also else (answer,)
    return Lesson("conversation", kind, rng.choice(wordings).format(*words), answer, accepted)


def _shuffled(items: Mapping[T, object] | Sequence[T], rng: Random) -> list[T]:
    """The items in an order that depends on `rng` alone."""
    ordered = sorted(items, key=repr)
    rng.shuffle(ordered)
    return ordered


def _weighted(items: Sequence[str], weights: Mapping[str, int], rng: Random, number: int) -> list[str]:
    """Up to `number` different items, each drawn with its weight plus one."""
    left = sorted(items)
    drawn: list[str] = []
    while left and len(drawn) < number:
        item = rng.choices(left, [weights.get(name, 0) + 1 for name in left])[0]
        left.remove(item)
        drawn.append(item)
    return drawn
