import pytest

from qllava.errors import DataError, UsageError
from qllava.infer.chat_session import ChatSession, Command, parse_command
from qllava.infer.engine import Engine
from qllava.infer.sampling import Sampling
from qllava.types import IMAGE, text
from tests.infer.tiny_run import picture

SHORT = Sampling(max_new_tokens=6)


def test_the_picture_stands_in_the_first_question_only(engine: Engine) -> None:
    session = ChatSession(engine, SHORT, picture(20))
    first = "".join(session.ask("How many?"))
    second = "".join(session.ask("yes?"))
    assert [message["role"] for message in session.messages] == ["user", "assistant"] * 2
    assert session.messages[0]["content"] == [IMAGE, text("How many?")]
    assert session.messages[1]["content"] == [text(first)]
    assert session.messages[2]["content"] == [text("yes?")]
    assert second == "".join(engine.stream(session.messages[:3], [picture(20)], SHORT))


def test_reset_forgets_and_another_picture_starts_anew(engine: Engine) -> None:
    session = ChatSession(engine, SHORT, picture(20))
    first = "".join(session.ask("How many?"))
    session.reset()
    assert session.messages == ()
    assert "".join(session.ask("How many?")) == first
    session.show(picture(250, 10, 200))
    assert session.messages == ()
    assert "".join(session.ask("How many?")) != first


def test_without_a_picture_the_question_is_text_alone(engine: Engine) -> None:
    session = ChatSession(engine, SHORT)
    list(session.ask("How many?"))
    assert session.messages[0]["content"] == [text("How many?")]


def test_a_stopped_answer_is_kept_as_far_as_it_was_said(engine: Engine) -> None:
    session = ChatSession(engine, Sampling(max_new_tokens=30), picture(20))
    pieces = session.ask("How many?")
    said = next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert session.messages[1]["content"] == [text(said)]


def test_an_answer_that_failed_leaves_no_trace(engine: Engine) -> None:
    session = ChatSession(engine, SHORT, picture(20))
    with pytest.raises(DataError, match="start anew"):
        list(session.ask("Y " * 300))
    assert session.messages == ()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("What is this?", None),
        ("is 1/2 a number", None),
        ("/reset", Command("reset")),
        ("  /exit ", Command("exit")),
        ("/help", Command("help")),
        ("/image my pictures/a b.jpg ", Command("image", "my pictures/a b.jpg")),
    ],
)
def test_commands(line: str, expected: Command | None) -> None:
    assert parse_command(line) == expected


@pytest.mark.parametrize("line", ["/image", "/reset now", "/picture x", "/"])
def test_what_only_looks_like_a_command_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match=r"there are /image PATH, /reset, /exit"):
        parse_command(line)
