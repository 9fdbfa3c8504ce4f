"""Reading captions: which categories a caption mentions, and how many, what colour, where, doing what it says.

No parser and no model: a window of known words around each mention. Where a window holds a word that is not known,
the mention is marked unclean and nothing is concluded from its colour.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from qllava.datagen import lexicon
from qllava.datagen.grammar import countable, plural

Sense = Literal["same", "kind", "maybe"]
"""`same`: another name of the category; `kind`: one kind of it (a man is a person); `maybe`: it might be meant."""

_TOKEN = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+|[.,;:!?()\"]")
_DETERMINERS = frozenset({*lexicon.ARTICLES, "another"})
_COLORING = frozenset(lexicon.COLORS) | lexicon.PATTERNS
_DESCRIBING = _COLORING | lexicon.ADJECTIVES
_STANDING = frozenset({"sits", "stands", "lies", "parked", "seated"})
_WINDOW = 6


@dataclass(frozen=True, slots=True)
class Mention:
    """One place where a caption names a category.

    `number` is an explicit number word (0 for "no"); `vague` an amount without one ("several", "a group of"); `fresh`
    means introduced by "a", "an" or "another". `colors` are all colour names said of it; `clean` means that whatever
    was said of its colour was understood. `across` and `down` are places in the frame that the caption states.
    """

    category: str
    sense: Sense
    start: int
    end: int
    plural: bool
    number: int | None
    vague: bool
    fresh: bool
    another: bool
    colors: frozenset[str]
    clean: bool
    action: str | None
    across: str | None
    down: str | None


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption's text with its tokens and mentions, in order."""

    text: str
    tokens: tuple[str, ...]
    mentions: tuple[Mention, ...]

    def mentions_of(self, category: str) -> tuple[Mention, ...]:
        """The mentions of one category, in order."""
        return tuple(mention for mention in self.mentions if mention.category == category)


@dataclass(frozen=True, slots=True)
class _Form:
    tokens: tuple[str, ...]
    category: str
    sense: Sense
    plural: bool


class CaptionReader:
    """Finds the mentions of one annotation file's categories in captions."""

    def __init__(self, categories: Iterable[str]) -> None:
        self._forms: dict[str, list[_Form]] = {}
        for category in sorted(set(categories)):
            for form in _forms(category):
                self._forms.setdefault(form.tokens[0], []).append(form)

    def read(self, text: str) -> Caption:
        """Tokens and mentions of one caption; the longest name wins ("hot dog" mentions no dog)."""
        tokens = tokenize(text)
        mentions: list[Mention] = []
        at = 0
        while at < len(tokens):
            found = [
                form for form in self._forms.get(tokens[at], ()) if tokens[at : at + len(form.tokens)] == form.tokens
            ]
            length = max((len(form.tokens) for form in found), default=1)
            mentions.extend(_mention(tokens, at, form) for form in found if len(form.tokens) == length)
            at += length
        return Caption(text=text, tokens=tokens, mentions=tuple(mentions))


def tokenize(text: str) -> tuple[str, ...]:
    """Lower-case words, digits and punctuation; a hyphen separates words, "dog's" is "dog"."""
    plain = text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return tuple(token.removesuffix("'s") for token in _TOKEN.findall(plain))


def _forms(category: str) -> list[_Form]:
    same, kinds, maybe = lexicon.SYNONYMS.get(category, ("", "", ""))
    groups: tuple[tuple[Sense, str], ...] = (("same", f"{category},{same}"), ("kind", kinds), ("maybe", maybe))
    forms: dict[tuple[tuple[str, ...], bool], _Form] = {}
    for sense, names in groups:
        for name in filter(None, names.split(",")):
            for words, is_plural in ((name, not countable(name)), (plural(name), True)):
                tokens = tokenize(words)
                if not tokens:
                    continue
                # "an orange cat": the word may be the colour, so that it settles nothing.
                kept: Sense = "maybe" if words in lexicon.COLORS else sense
                forms.setdefault((tokens, False), _Form(tokens, category, kept, is_plural))
    return list(forms.values())


def _mention(tokens: tuple[str, ...], start: int, form: _Form) -> Mention:
    end = start + len(form.tokens)
    colors, first, known = _adjectives(tokens, start)
    number, vague = _amount(tokens, first, start)
    introduced = tokens[first - 1] if first > 0 else ""
    said, after_known = _predicate_colors(tokens, end)
    across, down = _place(tokens, end)
    after = tokens[end] if end < len(tokens) else "."
    ends_phrase = not after[:1].isalnum() or after in (lexicon.AFTER_NOUN | lexicon.ACTIONS | lexicon.OTHER_VERBS)
    return Mention(
        category=form.category,
        sense=form.sense,
        start=start,
        end=end,
        plural=form.plural,
        number=number,
        vague=vague,
        fresh=introduced in {"a", "an", "another"} and not form.plural,
        another=introduced == "another" or "other" in tokens[first:start],
        colors=frozenset(colors | said),
        clean=known and after_known and (ends_phrase or not colors),
        action=_action(tokens, end),
        across=across,
        down=down,
    )


def _adjectives(tokens: Sequence[str], start: int) -> tuple[set[str], int, bool]:
    """Colours before a noun, the index of the first word of its adjectives, and whether all of them are known.

    The window reaches back to an article, a number or a mark, over "and" and commas only between adjectives.
    """
    colors: set[str] = set()
    known = True
    at = start
    while at > 0 and start - at < _WINDOW:
        word = tokens[at - 1]
        if word in lexicon.COLORS:
            colors.add(lexicon.COLORS[word])
        elif word in lexicon.PATTERNS:
            known = False
        elif word in {"and", ","}:
            if not (1 < at < start and tokens[at] in _DESCRIBING and tokens[at - 2] in _DESCRIBING):
                break
        elif word not in lexicon.ADJECTIVES:
            break
        at -= 1
    # A word that is not known may be a noun or an adjective: if a colour stands before it, whose it is stays open.
    before = tokens[at - 1] if at > 0 else "."
    if before[:1].isalpha() and not _closes(before):
        further = tokens[max(0, at - 1 - _WINDOW) : at - 1]
        for word in reversed(further):
            if _closes(word) or not word[:1].isalnum():
                break
            if word in _COLORING:
                known = False
    return colors, at, known


def _closes(word: str) -> bool:
    return (
        word in _DETERMINERS
        or word in lexicon.NUMBERS
        or word in lexicon.VAGUE
        or word in lexicon.AFTER_NOUN
        or word in lexicon.ACTIONS
        or word in lexicon.OTHER_VERBS
    )


def _amount(tokens: Sequence[str], first: int, start: int) -> tuple[int | None, bool]:
    """(explicit number, vague) of the noun at `start` whose adjectives begin at `first`."""
    window = list(tokens[max(0, first - 4) : first])
    if any(word in lexicon.VAGUE for word in tokens[first:start]):
        return None, True
    if not window:
        return None, False
    word = window[-1]
    if word == "of":
        return None, window[-2:-1] != [] and window[-2] in lexicon.AMOUNTS  # "a group of dogs"
    if word in {"the", "these", "those", "his", "her", "their"} and window[-2:-1] == ["of"]:
        return None, len(window) > 2 and window[-3] in lexicon.AMOUNTS  # "one of the dogs"
    number = _number(word)
    if number is None and word[:1].isalpha() and not _closes(word):
        # An unknown adjective ("two stuffed dogs", "two very old dogs"): the number may stand before it.
        number = next((found for earlier in reversed(window[:-1]) if (found := _number(earlier)) is not None), None)
    return number, number is None and word in lexicon.VAGUE


def _number(word: str) -> int | None:
    return int(word) if word.isdecimal() else lexicon.NUMBERS.get(word)


def _predicate_colors(tokens: Sequence[str], end: int) -> tuple[set[str], bool]:
    """Colours said after the noun ("the circle is red", "a cow that is brown and white"), and whether understood."""
    at = end
    if at < len(tokens) and tokens[at] in {"that", "which"}:
        at += 1
    if at >= len(tokens) or tokens[at] not in {"is", "are", "colored", "painted", "was"}:
        return set(), True
    colors: set[str] = set()
    for word in tokens[at + 1 : at + 5]:
        if word in lexicon.PATTERNS:
            return colors, False
        if word in lexicon.COLORS:
            colors.add(lexicon.COLORS[word])
        elif word not in {"and", ",", "all"} and word not in lexicon.ADJECTIVES:
            break
    return colors, True


def _action(tokens: Sequence[str], end: int) -> str | None:
    at = end + 1 if end < len(tokens) and tokens[end] in {"is", "are"} else end
    return tokens[at] if at < len(tokens) and tokens[at] in lexicon.ACTIONS else None


def _place(tokens: Sequence[str], end: int) -> tuple[str | None, str | None]:
    """Where in the frame the caption puts the noun: ("left", "top") of "at the top left"; nothing of "left of it"."""
    at = end + 1 if end < len(tokens) and tokens[end] in {"is", "are"} else end
    if at < len(tokens) and tokens[at] in lexicon.ACTIONS | _STANDING:  # "a dog sitting on the left"
        at += 1
    if list(tokens[at : at + 2])[1:] != ["the"] or tokens[at] not in {"on", "at", "in", "to"}:
        return None, None
    across: str | None = None
    down: str | None = None
    at += 2
    while at < len(tokens):
        word = tokens[at]
        if word in {"left", "right"}:
            across = word
        elif word in {"top", "upper"}:
            down = "top"
        elif word in {"bottom", "lower"}:
            down = "bottom"
        elif word in {"middle", "center", "centre"}:
            across, down = across or "middle", down or "middle"
        elif word not in {"far", "very", "side", "corner", "half", "edge"}:
            break
        at += 1
    rest = list(tokens[at : at + 3])
    if rest[:1] == ["of"] and not lexicon.FRAME & set(rest):
        return None, None
    return across, down
