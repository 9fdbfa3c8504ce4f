"""Noun phrases of a caption, by word lists.

This is not spaCy's chunker, which the paper used: no tagger, no model, English only. A phrase is a run of words between
articles, prepositions, verbs and marks, so a verb that is not listed stays in its phrase, and a rare phrase may be a
mistake. For counting concepts over many captions that is enough: mistakes are rare phrases, and rare phrases are
skipped by the rule that uses this. Words are kept as written ("dogs" is not "dog").
"""

from __future__ import annotations

import re
from itertools import groupby

from qllava.datagen import lexicon

MAX_WORDS = 5
_WORD = re.compile(r"[^\W\d_]+(?:['\N{RIGHT SINGLE QUOTATION MARK}-][^\W\d_]+)*|\S")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that are in no noun phrase: they end one and begin the next. Articles and numbers too, as "a dog" and "the dog"
# are one concept.
_CLOSED = _words(
    "a an the this that these those some any each every all both either neither no another such "
    "i me my mine we us our you your he him his she her hers it its they them their who whom whose which what where "
    "when why how there here "
    "and or but nor so yet if because while as than then though although until since whether "
    "of in on at by to from with without within into onto upon over under above below beneath beside besides between "
    "past behind before after during against among amongst around about across along through throughout toward towards "
    "off out up down near next inside outside atop like via per for "
    "is are was were be been being am do does did done has have had having can could will would shall should may might "
    "must not only very too also just still even more most less least much many few several other others same own "
    "one's someone something anything everything nothing somebody anyone everyone "
    "sits sit stands stand lies lie lays lay runs run walks walk plays play rides holds wears looks takes gets goes "
    "comes makes shows eats drinks flies swims jumps hangs rests sat stood lay held wore took got went came made "
    "showed seen shown ate flew swam jumped hung said says say see let gets keep keeps kept "
    "while ago away together apart back forth again ever never always often now soon today ahead aside "
) | _words(" ".join((*lexicon.NUMBERS, *lexicon.VAGUE, *lexicon.ARTICLES)))
# Nouns and adjectives that look like participles.
_NO_VERBS = _words(
    "building ceiling railing painting wedding clothing evening morning spring ring king wing string thing living "
    "dining swimming parking sewing washing baking sling sibling pudding dressing earring lightning awning frosting "
    "icing stuffing bedding landing crossing meeting drawing engraving carving opening setting ping bing sterling "
    "duckling dumpling sapling herring stocking topping lighting roofing flooring paving siding seating wiring "
    "red bed shed sled seed reed weed feed speed hundred naked sacred wicked crooked rugged jagged"
)


def noun_phrases(caption: str) -> tuple[str, ...]:
    """The distinct noun phrases of a caption, lower-case, of at most `MAX_WORDS` words, in order.

    "Two dogs running on the sandy beach" -> ("dogs", "sandy beach").
    """
    words = [word.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'") for word in _WORD.findall(caption)]
    words = [word.removesuffix("'s") for word in words]
    found: dict[str, None] = {}
    for inside, run in groupby(words, key=can_name):
        if inside:
            for phrase in _without_verbs(list(run)):
                if len(phrase) <= MAX_WORDS:
                    found[" ".join(phrase)] = None
    return tuple(found)


def can_name(word: str) -> bool:
    """Whether a lower-case English word may be part of a noun phrase: no article, preposition, verb or mark."""
    return word[0].isalpha() and word not in _CLOSED


def _without_verbs(run: list[str]) -> list[list[str]]:
    """Cut a run at participles that follow a noun or end it; one at its start describes what it precedes."""
    phrases: list[list[str]] = [[]]
    for index, word in enumerate(run):
        is_last = index == len(run) - 1
        if _is_participle(word) and (phrases[-1] or is_last):
            phrases.append([])
        else:
            phrases[-1].append(word)
    return [phrase for phrase in phrases if phrase]


def _is_participle(word: str) -> bool:
    return len(word) > 4 and word.endswith(("ing", "ed")) and word not in _NO_VERBS
