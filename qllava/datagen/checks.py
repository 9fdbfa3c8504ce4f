"""All checks on a language model's answers, in one place: what is kept, and why the rest is not.

Precision comes first. A false rejection throws away an answer that was paid for, a missed one costs a sample among
thousands; so each check takes only what it reads for certain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from qllava.datagen.captions import CaptionReader
from qllava.datagen.clauses import clauses
from qllava.datagen.fact_checks import WRONG_COLOR, WRONG_COUNT, WRONG_OBJECT, statement_fault
from qllava.datagen.facts import Facts
from qllava.datagen.lessons import Kind, Rejection, Turn
from qllava.datagen.near_duplicates import NearDuplicates
from qllava.datagen.relation_checks import WRONG_RELATION
from qllava.datagen.reply_checks import premise_fault, reply_fault
from qllava.datagen.sources import Scene
from qllava.datagen.wording_checks import (
    COORDINATES,
    CUT_OFF,
    EMPTY,
    LEFT_OVER,
    MALFORMED,
    REFUSAL,
    REPEATS,
    SOURCES,
    SWAPPED,
    normalized,
    wording_fault,
)

DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near duplicate"
AFTER = "after a rejected turn"
REASONS = (
    EMPTY,
    REFUSAL,
    LEFT_OVER,
    SWAPPED,
    SOURCES,
    COORDINATES,
    MALFORMED,
    REPEATS,
    CUT_OFF,
    WRONG_COUNT,
    WRONG_OBJECT,
    WRONG_COLOR,
    WRONG_RELATION,
    DUPLICATE,
    NEAR_DUPLICATE,
    AFTER,
)
"""Every `Rejection.reason` there is."""
LONG_ANSWER = 20
"""Words from which an answer is compared with those of other pictures; "Two." may be said a thousand times."""
_PICTURES_REMEMBERED = 4_096

__all__ = ["REASONS", "Checker", "Rejection", "Turn"]


class Checker:
    """Checks the answers of one data set, one call a picture and kind.

    Duplicates make the result depend on the order of the calls: make them in one fixed order for the same data set
    each time. Memory: 1 kB a long answer up to `near_duplicates.MOST_REMEMBERED`, and the turns of the last 4,096
    pictures. `seed` chooses MinHash's permutations.
    """

    def __init__(self, *, seed: int) -> None:
        self._near = NearDuplicates(seed=seed)
        self._said: dict[str, set[int]] = {}
        self._vocabulary: Mapping[str, str] | None = None
        self._reader = CaptionReader(())

    def check(
        self, scene: Scene, facts: Facts, kind: Kind, turns: Sequence[Turn]
    ) -> tuple[list[Turn], list[Rejection]]:
        """(kept turns, rejections): all turns up to the first bad one, and one rejection for each of the others.

        `facts` are those of `extract_facts` for this scene; no turn at all is one rejection as empty.
        """
        if not turns:
            return [], [Rejection(EMPTY, "no question and answer")]
        kept: list[Turn] = []
        asked: set[tuple[str, ...]] = set()
        for turn in turns:
            fault = self._fault(scene, facts, kind, turn, asked, len(kept))
            if fault is not None:
                rest = len(turns) - len(kept) - 1
                self._remember(scene, kept)
                return kept, [fault, *(Rejection(AFTER, f"{fault.reason}: {fault.detail}") for _ in range(rest))]
            asked.add(normalized(turn.question))
            kept.append(turn)
        self._remember(scene, kept)
        return kept, []

    def _fault(
        self, scene: Scene, facts: Facts, kind: Kind, turn: Turn, asked: set[tuple[str, ...]], earlier: int
    ) -> Rejection | None:
        fault = wording_fault(kind, turn, scene.captions)
        if fault is None and kind != "conversation" and earlier:
            fault = Rejection(MALFORMED, f"{kind} with more than one question")
        if fault is None and normalized(turn.question) in asked:
            fault = Rejection(DUPLICATE, "the question was asked before in this conversation")
        if fault is None and _key(turn) in self._said.get(scene.id, ()):
            fault = Rejection(DUPLICATE, "question and answer are there already for this picture")
        return fault or self._contradiction(scene, facts, turn) or self._like_another(turn)

    def _contradiction(self, scene: Scene, facts: Facts, turn: Turn) -> Rejection | None:
        if self._vocabulary is not scene.categories:  # one mapping a split
            self._vocabulary, self._reader = scene.categories, CaptionReader(scene.categories)
        reader = self._reader
        stated: Iterator[Rejection | None] = (statement_fault(c, facts) for c in clauses(turn.answer, reader))
        found = next((fault for fault in stated if fault is not None), None)
        premise = premise_fault(turn.question, facts, reader)
        return found or premise or reply_fault(turn.question, turn.answer, facts, reader)

    def _like_another(self, turn: Turn) -> Rejection | None:
        words = _long(turn)
        like = self._near.like(words) if words else None
        return None if like is None else Rejection(NEAR_DUPLICATE, f"{like.similarity:.2f} like one of {like.name}")

    def _remember(self, scene: Scene, kept: Sequence[Turn]) -> None:
        said = self._said.setdefault(scene.id, set())
        said.update(_key(turn) for turn in kept)
        while len(self._said) > _PICTURES_REMEMBERED:
            del self._said[next(iter(self._said))]
        for turn in kept:
            if words := _long(turn):
                self._near.remember(scene.id, words)


def _key(turn: Turn) -> int:
    return hash((normalized(turn.question), normalized(turn.answer)))


def _long(turn: Turn) -> tuple[str, ...]:
    """The words of question and answer, none where the answer is short."""
    answer = normalized(turn.answer)
    return (*normalized(turn.question), *answer) if len(answer) >= LONG_ANSWER else ()
