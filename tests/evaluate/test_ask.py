from pathlib import Path

import pytest

from qllava.data.images import open_image
from qllava.errors import DataError
from qllava.evaluate.ask import CONDITIONS, ask, exchange, pictures_shown
from qllava.evaluate.questions import Question
from qllava.infer.engine import Engine
from qllava.infer.sampling import Sampling
from qllava.types import IMAGE, text
from tests.infer.tiny_run import load_tiny, picture

NAMES = ("a.png", "b.png", "c.png")
QUESTIONS = [
    *(Question(f"{name}{n}", name, q, ("red",)) for n, q in enumerate(("How many?", "What?")) for name in NAMES),
    Question("text", None, "Why?", ("so",)),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    loaded = load_tiny(tmp_path_factory.mktemp("tiny"))
    loaded.model.float()
    return Engine(loaded, mixed_precision=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        picture(20 + 100 * number, 200 - 90 * number).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_question_is_asked_with_the_picture_of_its_condition(engine: Engine, root: Path, condition: str) -> None:
    answers = {q.id: a for q, a in ask(engine, QUESTIONS, root, condition, max_new_tokens=5)}  # type: ignore[arg-type]
    assert len(answers) == len(QUESTIONS)
    shown = pictures_shown(QUESTIONS, condition)  # type: ignore[arg-type]
    for question, name in zip(QUESTIONS, shown, strict=True):
        content = [IMAGE, text(question.question)] if name else [text(question.question)]
        images = [open_image(root / name)] if name else []
        expected = engine.stream([{"role": "user", "content": content}], images, Sampling(max_new_tokens=5))
        assert answers[question.id] == "".join(expected)


def test_shuffled_keeps_no_picture_and_right_keeps_all() -> None:
    right = pictures_shown(QUESTIONS, "right")
    shuffled = pictures_shown(QUESTIONS, "shuffled")
    assert right == [question.image for question in QUESTIONS]
    assert shuffled[-1] is None
    assert all(other != own and other in NAMES for other, own in zip(shuffled[:-1], right[:-1], strict=True))
    assert pictures_shown(QUESTIONS, "none") == [None] * len(QUESTIONS)


@pytest.mark.parametrize("count", [0, 2, 3, 60])
def test_exchange_is_a_permutation_without_fixed_points(count: int) -> None:
    names = {f"{i}.jpg" for i in range(count)}
    other = exchange(names)
    assert other == exchange(names)
    assert set(other) == set(other.values()) == names
    assert all(name != given for name, given in other.items())


def test_a_single_picture_cannot_be_shuffled() -> None:
    with pytest.raises(DataError, match=r"all questions are about a.png; shuffling needs two pictures or more"):
        pictures_shown([QUESTIONS[0]], "shuffled")


def test_a_missing_picture_is_one_clear_line(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"image 'a.png' is not in"):
        list(ask(engine, QUESTIONS, tmp_path))
