"""Choosing captions so that concepts are balanced: how LLaVA made 595 thousand pairs of CC3M's three million.

The paper's appendix on its data: count each noun phrase; skip those that fewer than 3 captions hold;
from the rarest up add the captions that hold it, of a phrase with more than 100 a random 100. As published the rule
keeps more than twice the pairs that the authors kept, so a target caps it here.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nsmallest

from qllava.datagen.noun_phrases import noun_phrases
from qllava.errors import DataError, UsageError

LEAST = 3
MOST = 100


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen captions and what was counted.

    `ids` in the order of choice, that of rare concepts first; a smaller target gives the beginning of it. `captions`,
    `phrases` are the numbers before; `concepts` phrases that enough captions hold, `covered` those of them that a
    chosen caption holds; `without_concept` captions that hold none and so are never chosen; `over_target` captions
    that the rule would keep and the target left out.
    """

    ids: tuple[str, ...]
    captions: int
    phrases: int
    concepts: int
    covered: int
    without_concept: int
    over_target: int


def balanced(
    captions: Iterable[tuple[str, str]],
    target: int | None = None,
    *,
    least: int = LEAST,
    most: int = MOST,
    seed: int,
) -> Selection:
    """Choose captions, given as (id, caption) with every id once; the order in which they come changes nothing.

    Args:
        captions: read once; about 250 bytes a caption are kept, not its text.
        target: at most this many captions; None for as many as the rule gives.
        least: phrases that fewer captions hold are skipped.
        most: of a phrase that more captions hold, this many are drawn.
        seed: of the draw, and of the order within one phrase.

    Raises:
        UsageError: a number below 1, or `most` below `least`.
        DataError: an id that comes twice.
    """
    _check(target, least, most)
    ids: list[str] = []
    holders: dict[str, array[int]] = {}
    for number, (identity, caption) in enumerate(captions):
        ids.append(identity)
        for phrase in noun_phrases(caption):
            holders.setdefault(phrase, array("I")).append(number)
    _refuse_twice(ids)
    phrases = len(holders)
    concepts = {phrase: numbers for phrase, numbers in holders.items() if len(numbers) >= least}
    del holders
    chosen: dict[int, None] = {}
    for phrase in sorted(concepts, key=lambda phrase: (len(concepts[phrase]), phrase)):
        # The draw is one of its own for every phrase: one order for all would draw the same captions again and again.
        drawn = nsmallest(most, ((rank(seed, phrase, ids[number]), number) for number in concepts[phrase]))
        chosen.update((number, None) for _, number in drawn)
    kept = list(chosen)[:target]
    kept_numbers = set(kept)
    holding = {number for numbers in concepts.values() for number in numbers}
    return Selection(
        ids=tuple(ids[number] for number in kept),
        captions=len(ids),
        phrases=phrases,
        concepts=len(concepts),
        covered=sum(any(number in kept_numbers for number in numbers) for numbers in concepts.values()),
        without_concept=len(ids) - len(holding),
        over_target=len(chosen) - len(kept),
    )


def rank(seed: int, phrase: str, identity: str) -> bytes:
    """Where an id stands in the draw of a phrase: the first 8 bytes of SHA-256 over all three, least first."""
    return hashlib.sha256(f"{seed}\0{phrase}\0{identity}".encode()).digest()[:8]


def _check(target: int | None, least: int, most: int) -> None:
    for name, value in (("target", target), ("least", least), ("most", most)):
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value} keeps nothing; give 1 or more")
    if most < least:
        raise UsageError(f"most={most} is less than least={least}; give at least as much")


def _refuse_twice(ids: list[str]) -> None:
    if len(set(ids)) == len(ids):
        return
    seen: set[str] = set()
    twice = next(identity for identity in ids if identity in seen or seen.add(identity))  # type: ignore[func-returns-value]
    raise DataError(f"caption id {twice!r} comes twice; give every caption an id of its own")
