import queue
import time
from collections.abc import Iterator

import pytest

from qllava.infer.engine import Engine
from qllava.infer.pool import AnswerPool, Asked
from qllava.infer.sampling import Sampling
from qllava.serve.api_error import ApiError
from qllava.serve.desk import Desk, Done, Event, Piece, Ticket
from qllava.types import text


class Asker:
    """Asks a desk and hears what comes back."""

    def __init__(self, pool: AnswerPool, desk: Desk) -> None:
        self.pool = pool
        self.desk = desk

    def read(self, tokens: int) -> Asked:
        return self.pool.read([{"role": "user", "content": [text("Why")]}], [], Sampling(max_new_tokens=tokens))

    def submit(self, tokens: int, seconds: float = 60.0) -> tuple[int, queue.Queue[Event]]:
        heard: queue.Queue[Event] = queue.Queue()
        deadline = time.monotonic() + seconds
        return self.desk.submit(Ticket(self.read(tokens), deadline, seconds, heard.put)), heard

    def end(self, heard: queue.Queue[Event]) -> Event:
        while isinstance(event := heard.get(timeout=60), Piece):
            pass
        return event


@pytest.fixture
def asker(engine: Engine) -> Iterator[Asker]:
    pool = AnswerPool(engine, max_rows=2)
    desk = Desk(pool)
    desk.start()
    yield Asker(pool, desk)
    desk.close()
    assert desk.join(60)


def test_a_failure_of_the_model_is_told_and_the_next_request_is_answered(
    asker: Asker, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: out of memory at 0xDEADBEEF")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "advance", fail)
        ended = asker.end(asker.submit(5)[1])
        assert isinstance(ended, ApiError)
        assert (ended.status, "0xDEADBEEF" in ended.message) == (500, False)
    assert asker.end(asker.submit(5)[1]) == Done("length", 5)
    assert (asker.desk.active, asker.desk.waiting) == (0, 0)


def test_late_cancelled_and_closed(asker: Asker) -> None:
    late = asker.end(asker.submit(200, seconds=0.0)[1])
    assert isinstance(late, ApiError)
    assert (late.status, late.message[:31]) == (504, "no complete answer within 0 s; ")
    (first, heard), (_, second), (third, waits) = (asker.submit(230) for _ in range(3))
    asker.desk.cancel(first)
    asker.desk.cancel(third)
    assert asker.end(second) == Done("length", 230)
    assert waits.empty()
    assert all(isinstance(event, Piece) for event in heard.queue)
    _, unfinished = asker.submit(230)
    asker.desk.close()
    assert asker.desk.join(60)
    ended = asker.end(unfinished)
    assert isinstance(ended, ApiError)
    assert (ended.status, ended.code) == (503, "stopping")
    with pytest.raises(ApiError, match="the server is being stopped; ask again once it runs"):
        asker.submit(1)
