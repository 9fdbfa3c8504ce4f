import pytest

from qllava.errors import DataError
from qllava.evaluate.exact_match import Score, exact_match, normalize_answer
from qllava.evaluate.questions import Question


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Red.", "red"),
        ("  The red   circle! ", "red circle"),
        ("Two", "2"),
        ("twelve stars", "12 stars"),
        ("none", "0"),
        ("3.5", "3.5"),
        ("1,000", "1000"),
        ("1, 2", "1 2"),
        ("left-hand", "left hand"),
        ("an a the", ""),
        ("It's", "its"),
        ("\uff11", "1"),
        ("", ""),
    ],
)
def test_normalisation(answer: str, expected: str) -> None:
    assert normalize_answer(answer) == expected


def test_scores_by_hand() -> None:
    questions = [
        Question("1", "a", "?", ("red",), "color"),
        Question("2", "a", "?", ("2", "two"), "count"),
        Question("3", "b", "?", ("yes",), "count"),
        Question("4", "b", "?", ("blue",), "color"),
    ]
    scores = exact_match({"1": "A red.", "2": "Two", "3": "no"}, questions)
    assert scores.overall == Score(2, 4)
    assert dict(scores.by_kind) == {"color": Score(1, 2), "count": Score(1, 2)}
    assert scores.unanswered == 1
    assert scores.to_dict()["by_kind"]["color"]["accuracy"] == 0.5


def test_an_answer_to_another_set_is_refused() -> None:
    with pytest.raises(DataError, match="1 answers are to no question of this set \\(first: id 'x'\\)"):
        exact_match({"x": "red"}, [Question("1", "a", "?", ("red",))])


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"),
    # Wilson's formula by hand; 81 of 263 is Newcombe's (1998) example.
    [(81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0), (0, 0, 0.0, 1.0), (1, 1, 0.2065, 1.0)],
)
def test_wilson_interval(right: int, asked: int, low: float, high: float) -> None:
    assert Score(right, asked).interval == pytest.approx((low, high), abs=1e-4)
