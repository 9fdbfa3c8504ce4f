"""VQA v2's accuracy by hand and against the rule written out; scores of a set."""

from __future__ import annotations

import pytest

from qllava.errors import DataError, UsageError
from qllava.evaluate.exact_match import Score
from qllava.evaluate.questions import Question, question_set_digest, spread
from qllava.evaluate.vqa import question_scores, score_answers, soft_accuracy


def asked(*answers: str, name: str = "1", image: str = "a.jpg", kind: str = "") -> Question:
    return Question(name, image, "?", answers, kind)


def leave_one_out(matches: int) -> float:
    """The published rule as it is told: each of ten people in turn against the other nine."""
    people = [True] * matches + [False] * (10 - matches)
    turns = [min(sum(people[:out] + people[out + 1 :]) / 3, 1.0) for out in range(10)]
    return sum(turns) / 10


@pytest.mark.parametrize(("matches", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_ten_people(matches: int, expected: float) -> None:
    question = asked(*["Two"] * matches, *(f"x{n}" for n in range(10 - matches)))
    assert leave_one_out(matches) == pytest.approx(expected)
    assert soft_accuracy("2.", question) == pytest.approx(expected)


def test_with_another_number_of_answers_one_match_is_enough() -> None:
    assert soft_accuracy("a Red", asked("red", "crimson")) == 1.0
    assert soft_accuracy("blue", asked("red", "crimson")) == 0.0
    assert soft_accuracy("", asked("red")) == 0.0
    assert soft_accuracy("red", asked()) == 0.0


def test_a_set_by_hand() -> None:
    ten = asked("red", "red", *["blue"] * 8, name="ten", kind="color")
    one = asked("3", name="one", image="b.jpg", kind="count")
    missing = asked("yes", name="missing", image="c.jpg", kind="count")
    answers = {"ten": "red", "one": "three"}
    scores = score_answers(answers, [ten, one, missing])
    assert scores.exact.overall == Score(2, 3)
    assert scores.exact.unanswered == 1
    assert scores.soft is not None
    assert scores.soft.value == pytest.approx(1.6 / 3)
    assert {kind: value.value for kind, value in scores.soft_by_kind.items()} == pytest.approx(
        {"color": 0.6, "count": 0.5}
    )
    assert question_scores(answers, [ten, one, missing]) == pytest.approx({"ten": 0.6, "one": 1.0, "missing": 0.0})
    values = scores.to_dict()
    assert values["exact_match"]["right"] == 2
    assert values["vqa_accuracy"]["by_kind"]["color"]["value"] == pytest.approx(0.6)


def test_without_ten_answers_there_is_exact_match_alone() -> None:
    scores = score_answers({"1": "red"}, [asked("red")])
    assert (scores.soft, scores.to_dict().keys()) == (None, {"exact_match"})


def test_an_empty_set_scores_nothing() -> None:
    scores = score_answers({}, [])
    assert scores.exact.overall == Score(0, 0)
    assert scores.exact.overall.interval == (0.0, 1.0)


def test_answers_to_another_set_are_refused() -> None:
    with pytest.raises(DataError, match="1 answers are to no question of this set"):
        score_answers({"x": "red"}, [asked("red")])


def test_a_set_is_known_by_all_of_its_fields_and_their_order() -> None:
    one, two = asked("red"), asked("red", name="2")
    digests = [[one], [two], [one, two], [two, one], [asked("blue")], [asked("red", kind="color")], []]
    assert len({question_set_digest(questions) for questions in digests}) == len(digests)
    assert question_set_digest([one]) == question_set_digest([asked("red")])


def test_a_limit_spreads() -> None:
    questions = [asked("x", name=str(n)) for n in range(10)]
    assert [q.id for q in spread(questions, 4)] == ["0", "2", "5", "7"]
    assert spread(questions, None) == spread(questions, 99) == questions
    with pytest.raises(UsageError, match="--limit 0 asks nothing; give 1 or more"):
        spread(questions, 0)
