"""Checks on a language model's answers: each reason with true and false examples, and how often they are right."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from random import Random

import pytest

from qllava.datagen.captions import CaptionReader
from qllava.datagen.checks import REASONS, Checker, Rejection, Turn
from qllava.datagen.facts import Facts, extract_facts
from qllava.datagen.lessons import Kind
from qllava.datagen.near_duplicates import NearDuplicates
from qllava.datagen.prompts.load import load_prompts
from tests.datagen.check_cases import BAD, CATEGORIES, GOOD, MISSED, SCENES, Case
from tests.datagen.check_cases_unseen import RIGHT, WRONG

READER = CaptionReader(CATEGORIES)
FACTS: dict[str, Facts] = {name: extract_facts(scene, READER) for name, scene in SCENES.items()}


def verdict(case: Case) -> list[Rejection]:
    turn = Turn(case.question, case.answer)
    kept, rejections = Checker(seed=1).check(SCENES[case.scene], FACTS[case.scene], case.kind, [turn])
    assert (kept == [turn]) != bool(rejections)
    assert all(rejection.reason in REASONS and rejection.detail for rejection in rejections)
    return rejections


def name(case: Case) -> str:
    return f"{case.scene}: {case.question[:30]} {case.answer[:40]}"


@pytest.mark.parametrize("case", BAD, ids=name)
def test_bad_answers_are_rejected_for_their_reason(case: Case) -> None:
    assert case.reason is not None
    (rejection,) = verdict(case)
    assert case.reason in rejection.reason


@pytest.mark.parametrize("case", GOOD, ids=name)
def test_right_answers_are_kept(case: Case) -> None:
    assert verdict(case) == []


def measured(wrong: list[Case], right: list[Case]) -> tuple[int, int]:
    """(wrong ones caught, right ones rejected)."""
    return sum(bool(verdict(case)) for case in wrong), sum(bool(verdict(case)) for case in right)


def test_precision_and_recall_over_all_cases() -> None:
    """Misses are counted too: what a check cannot read for certain passes."""
    assert len(BAD) + len(MISSED) + len(GOOD) >= 120
    assert measured([*BAD, *MISSED], GOOD) == (len(BAD), 0)
    assert len(BAD) / len([*BAD, *MISSED]) > 0.9


def test_precision_and_recall_over_cases_written_after_the_checks() -> None:
    """22 of 24 caught (a bench is seldom labelled; dark brown may be called black), none of 30 rejected wrongly."""
    assert measured(WRONG, RIGHT) == (22, 0)
    assert (len(WRONG), len(RIGHT)) == (24, 30)


def check(checker: Checker, turns: Sequence[tuple[str, str]], scene: str = "park", kind: Kind = "conversation") -> str:
    """What was kept and why not the rest, as one text."""
    kept, rejections = checker.check(SCENES[scene], FACTS[scene], kind, [Turn(*turn) for turn in turns])
    assert len(kept) + len(rejections) == max(1, len(turns))
    return f"{len(kept)} kept; {', '.join(rejection.reason for rejection in rejections)}"


FIRST = ("What is the dog doing?", "It is lying on the grass.")
SECOND = ("What color is the frisbee?", "Red.")
FALSE_COUNT = ("How many dogs are there?", "Four dogs.")


def test_a_conversation_is_cut_at_its_first_bad_turn() -> None:
    checker = Checker(seed=1)
    assert check(checker, [FIRST, FALSE_COUNT, SECOND, FIRST]) == (
        "1 kept; contradicts the boxes: count, after a rejected turn, after a rejected turn"
    )
    assert check(Checker(seed=1), [FIRST, SECOND]) == "2 kept; "
    assert check(Checker(seed=1), []) == "0 kept; empty"


def test_details_name_the_words_and_the_truth() -> None:
    _, (count, after) = Checker(seed=1).check(
        SCENES["park"], FACTS["park"], "conversation", [Turn(*FALSE_COUNT), Turn(*FIRST)]
    )
    assert count == Rejection("contradicts the boxes: count", "'Four dogs.': the boxes hold one dog")
    assert after == Rejection(
        "after a rejected turn", "contradicts the boxes: count: 'Four dogs.': the boxes hold one dog"
    )


def test_exact_duplicates_within_a_conversation_and_a_picture() -> None:
    checker = Checker(seed=1)
    assert check(checker, [FIRST, ("What IS the dog doing", "Resting.")]) == "1 kept; duplicate"
    assert check(checker, [("What is the dog doing?", "It is lying, on the grass")]) == "0 kept; duplicate"
    assert check(checker, [FIRST], scene="unlabelled") == "1 kept; "
    rejected = [("What is there?", "There are four dogs.")]
    assert check(checker, rejected) == check(checker, rejected) == "0 kept; contradicts the boxes: count"


def test_details_and_reasoning_are_one_turn() -> None:
    long = "A brown dog is lying on the grass of a park, and a red frisbee lies to its right."
    other = "Everything looks calm, as if nothing had happened in this park for hours and hours."
    turns = [("Describe it.", long), ("What else?", other)]
    assert check(Checker(seed=1), turns, kind="detail") == "1 kept; malformed for its kind"
    assert check(Checker(seed=1), turns) == "2 kept; "


LONG = (
    "A brown dog is lying on the green grass of a quiet park, and a red frisbee lies a few steps to its right, which "
    "makes it likely that the dog has been playing for a while and now takes a rest in the warm light of the evening."
)


def test_every_preset_question_of_a_detail_may_be_asked() -> None:
    questions = load_prompts(None, ["detail"])["detail"].questions
    assert len(questions) == 16
    for number, question in enumerate(questions):
        answer = f"Number {number}: a man in a red coat stands on the grass and looks at a dog in front of him."
        assert check(Checker(seed=1), [(question, answer)], kind="detail") == "1 kept; "


def test_near_duplicates_over_pictures_only_for_long_answers() -> None:
    checker = Checker(seed=1)
    assert check(checker, [("Describe the picture.", LONG)], kind="detail") == "1 kept; "
    alike = LONG.replace("quiet", "small")
    kept, (rejection,) = checker.check(
        SCENES["unlabelled"], FACTS["unlabelled"], "detail", [Turn("Describe the picture.", alike)]
    )
    assert (kept, rejection.reason) == ([], "near duplicate")
    likeness, _, of = rejection.detail.partition(" like one of ")
    assert 0.8 <= float(likeness) < 1.0
    assert of == "park"
    half = (
        LONG[: len(LONG) // 2] + " and nobody else can be seen, since the gates were closed an hour ago by the guard."
    )
    assert check(checker, [("Describe the picture.", half)], scene="unlabelled", kind="detail") == "1 kept; "
    for scene in ("savanna", "station", "kitchen"):
        assert check(checker, [("Is it day?", "Yes, it is.")], scene=scene) == "1 kept; "


def test_the_same_calls_give_the_same_verdicts() -> None:
    def run() -> list[str]:
        checker = Checker(seed=7)
        return [check(checker, [(c.question, c.answer)], c.scene, c.kind) for c in [*GOOD, *BAD, *GOOD]]

    assert run() == run()


def sentence(rng: Random, words: int = 60) -> list[str]:
    return [rng.choice("abcdefghij") + rng.choice("klmnopqrst") + rng.choice("uvwxyz") for _ in range(words)]


def test_memory_is_bounded_and_the_oldest_are_forgotten() -> None:
    rng = Random(0)
    texts = [sentence(rng) for _ in range(1200)]
    near = NearDuplicates(seed=3, most=1000)
    near.like(texts[0])  # loads the library
    tracemalloc.start()
    try:
        for number, text in enumerate(texts[:1000]):
            near.remember(f"picture-{number}", text)
        full = tracemalloc.get_traced_memory()[0]
        for number, text in enumerate(texts[1000:]):
            near.remember(f"picture-{1000 + number}", text)
        later = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(near) == 1000
    assert full / 1000 < 1300
    assert later < 1.05 * full
    assert near.like(texts[0]) is None
    assert near.like(texts[1199]) == ("picture-1199", 1.0)
    assert near.like(sentence(rng)) is None
