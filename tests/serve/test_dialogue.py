"""What the page asks is what an API client would ask, and takes the same places."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from qllava.infer.engine import Engine
from qllava.infer.sampling import Sampling
from qllava.serve.dialogue import Talk
from qllava.types import IMAGE, Message, text
from tests.infer.tiny_run import picture
from tests.serve.hall import QUESTION, Hall
from tests.serve.server import encoded

FILE = encoded(picture(20))


def alone(engine: Engine, messages: list[Message], pictures: int) -> str:
    return "".join(engine.stream(messages, [picture(20)] * pictures, Sampling(max_new_tokens=10)))


def test_both_answers_are_the_engines_own(hall: Callable[..., Hall], engine: Engine) -> None:
    seen, unseen = hall().ask([Talk((), FILE), Talk()])
    assert (seen.ending, unseen.ending) == ("length", "length")
    assert seen.text == alone(engine, [{"role": "user", "content": [IMAGE, text(QUESTION)]}], 1) != ""
    assert unseen.text == alone(engine, [{"role": "user", "content": [text(QUESTION)]}], 0)
    assert seen.text != unseen.text


def test_the_picture_stands_in_the_first_question(hall: Callable[..., Hall], engine: Engine) -> None:
    (answer,) = hall().ask([Talk((("What is it?", "A circle."),), FILE)])
    messages: list[Message] = [
        {"role": "user", "content": [IMAGE, text("What is it?")]},
        {"role": "assistant", "content": [text("A circle.")]},
        {"role": "user", "content": [text(QUESTION)]},
    ]
    assert answer.text == alone(engine, messages, 1)


def test_it_comes_in_pieces(hall: Callable[..., Hall]) -> None:
    async def lengths() -> list[int]:
        answers = hall().dialogue.ask(QUESTION, [Talk()], Sampling(max_new_tokens=30))
        return [len(found.text) async for (found,) in answers]

    seen = asyncio.run(lengths())
    assert seen == sorted(seen)
    assert len(set(seen)) > 3


def test_to_close_it_frees_the_places(hall: Callable[..., Hall]) -> None:
    found = hall()

    async def leave() -> int:
        answers = found.dialogue.ask(QUESTION, [Talk(), Talk((), FILE)], Sampling(max_new_tokens=10_000))
        async with aclosing(answers):  # type: ignore[type-var]
            async for pair in answers:
                if any(answer.text for answer in pair):
                    break
            return found.reception.inside

    assert asyncio.run(leave()) == 2
    assert found.reception.inside == 0


def test_what_fails_is_told_in_one_line_and_the_other_goes_on(hall: Callable[..., Hall]) -> None:
    broken, whole = hall().ask([Talk((), b"no picture"), Talk()])
    assert broken.error == (
        "the picture: the picture is refused: it cannot be read; send a whole JPEG, PNG, WEBP, GIF or BMP file"
    )
    assert (broken.text, broken.ending) == ("", None)
    assert whole.ending == "length"


def test_it_takes_places_as_clients_do(hall: Callable[..., Hall]) -> None:
    first, second = hall(places=1).ask([Talk(), Talk()])
    assert first.ending == "length"
    assert second.error == "1 requests are being answered or wait already; try again in 1 s"


def test_its_time_is_limited(hall: Callable[..., Hall]) -> None:
    (answer,) = hall(seconds=0.0).ask([Talk()])
    assert answer.error is not None
    assert answer.error.startswith("no complete answer within 0 s; ")
