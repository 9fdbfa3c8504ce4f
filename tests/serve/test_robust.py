"""Whatever comes in, the answer is an error of OpenAI's shape, and the server goes on."""

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from tests.infer.tiny_run import picture
from tests.serve.malformed import malformed
from tests.serve.server import Running, asking, running

JSON = {"Content-Type": "application/json"}
CHAT = "/v1/chat/completions"


def check_refused(server: Running, bodies: list[bytes]) -> None:
    with httpx2.Client(base_url=server.url, timeout=120, trust_env=False) as client:

        def post(body: bytes) -> tuple[int, str]:
            response = client.post(CHAT, content=body, headers=JSON)
            error = response.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}, body[:300]
            assert error["message"] == " ".join(error["message"].split()), error
            assert 10 < len(error["message"]) < 500, error
            assert server.url not in error["message"]
            return response.status_code, error["message"]

        with ThreadPoolExecutor(4) as threads:
            for body, (status, message) in zip(bodies, threads.map(post, bodies), strict=True):
                assert status in (400, 404, 413), (status, message, body[:300])
    server.wait_until(inside=0, waiting=0, active=0)
    found = server.client().chat.completions.create(model="exact", messages=asking("Why", picture(20)), max_tokens=2)
    assert found.usage is not None
    assert found.usage.completion_tokens == 2
    assert "Traceback" not in server.log.read_text()


def test_malformed_bodies_are_refused_and_the_server_goes_on(server: Running) -> None:
    check_refused(server, malformed(150, seed=0))


@pytest.mark.slow
def test_a_thousand_malformed_bodies(server: Running) -> None:
    check_refused(server, malformed(1000, seed=1))


def test_a_request_that_is_too_large_is_refused(server: Running) -> None:
    huge = b'{"messages":[{"role":"user","content":"' + b"Y" * (21 << 20) + b'"}]}'
    with httpx2.Client(base_url=server.url, timeout=120, trust_env=False) as client:
        response = client.post(CHAT, content=huge, headers=JSON)
        assert response.status_code == 413
        assert response.json()["error"]["message"].startswith("the body is larger than 20,971,520 bytes")

        # Without a length: counted as it comes.
        response = client.post(CHAT, content=iter([huge[: 1 << 20]] * 22), headers=JSON)
        assert response.status_code == 413


def test_other_sites_other_names_and_other_kinds_of_body_are_refused(server: Running) -> None:
    with httpx2.Client(base_url=server.url, timeout=120, trust_env=False) as client:
        asked = {"messages": asking("x"), "max_tokens": 1}
        rebound = client.post(CHAT, json=asked, headers={"Host": "evil.example:8000"})
        assert rebound.status_code == 403
        assert "this server answers on localhost only" in rebound.json()["error"]["message"]
        page = client.post(CHAT, json=asked, headers={"Origin": "http://evil.example"})
        assert page.status_code == 403
        own = client.post(CHAT, json=asked, headers={"Origin": server.url})
        assert own.status_code == 200
        form = client.post(CHAT, content=b"{}", headers={"Content-Type": "text/plain"})
        assert form.status_code == 415
        assert "send application/json" in form.json()["error"]["message"]
        wrong = client.get(CHAT)
        assert wrong.status_code == 405
        assert wrong.json()["error"]["type"] == "invalid_request_error"


@pytest.fixture(scope="module")
def small(long_folder: Path) -> Iterator[Running]:
    """`qllava serve` with a key, one answer at a time, one waiting, and little time."""
    arguments = ["serve", "--port", "0", "--api-key-env", "TEST_KEY", "--batch", "1", "--queue", "1", "--timeout", "20"]
    with running(long_folder, [*arguments, "--max-tokens", "8000"], key="sk-Zu3k") as found:
        yield found


def test_without_the_key_nothing_is_told_and_it_is_never_logged(small: Running) -> None:
    for wrong in ("sk-Zu3", "sk-Zu3kk", "any", "SK-ZU3K"):
        with pytest.raises(openai.AuthenticationError, match="this server wants its API key") as caught:
            small.client(api_key=wrong).models.list()
        assert caught.value.code == "invalid_api_key"
    with httpx2.Client(base_url=small.url, timeout=60, trust_env=False) as client:
        assert client.get("/config").status_code == 401
        assert client.get("/v1/nowhere").status_code == 401
        assert client.get("/v1/models", headers={"Authorization": "Bearer sk-Zu3k"}).status_code == 200
        assert client.get("/v1/models", headers={"Authorization": b"Bearer \xff\xfe"}).status_code == 401
    assert [model.id for model in small.client().models.list()] == ["finetune-001"]
    assert "sk-Zu3k" not in small.log.read_text()


def test_a_full_queue_says_when_to_come_back_and_a_client_that_goes_frees_its_place(small: Running) -> None:
    client = small.client()
    first = client.chat.completions.create(model="finetune-001", messages=asking("Why"), stream=True)
    pieces = iter(first)
    next(pieces)
    second = threading.Thread(target=_short, args=(small,))
    second.start()
    small.wait_until(inside=2, waiting=1, active=1)
    with pytest.raises(openai.RateLimitError, match="2 requests are being answered or wait already") as caught:
        _short(small)
    assert 1 <= int(caught.value.response.headers["Retry-After"]) <= 60
    first.close()  # the one that waited comes to its turn
    second.join(60)
    assert not second.is_alive()
    small.wait_until(inside=0, waiting=0, active=0)
    assert _short(small) == 3
    # Not streamed, and gone before the answer.
    with pytest.raises(openai.APITimeoutError):
        small.client(timeout=2.0).chat.completions.create(model="finetune-001", messages=asking("Why"))
    small.wait_until(inside=0, waiting=0, active=0)
    assert " 499, " in small.log.read_text()


def test_an_answer_that_takes_too_long_is_ended(long_folder: Path) -> None:
    with running(long_folder, ["serve", "--port", "0", "--timeout", "2"]) as server:
        client = server.client()
        with pytest.raises(openai.InternalServerError, match="no complete answer within 2 s") as caught:
            client.chat.completions.create(model="finetune-001", messages=asking("Why"), max_tokens=8000)
        assert caught.value.status_code == 504
        stream = client.chat.completions.create(
            model="finetune-001", messages=asking("Why"), max_tokens=8000, stream=True
        )
        said = []
        with pytest.raises(openai.APIError, match="no complete answer within 2 s"):
            said += [chunk.choices[0].delta.content for chunk in stream]
        server.wait_until(inside=0, active=0)


def test_asked_to_end_it_completes_what_it_can_and_tells_the_rest(long_folder: Path) -> None:
    with running(long_folder, ["serve", "--port", "0", "--grace", "8"]) as server:
        client = server.client()

        def begin(tokens: int) -> Iterator[ChatCompletionChunk]:
            chunks = iter(
                client.chat.completions.create(
                    model="finetune-001", messages=asking("Why"), max_tokens=tokens, stream=True
                )
            )
            next(chunks)
            return chunks

        endless, brief = begin(8000), begin(20)
        started = time.monotonic()
        server.terminate(signal.SIGTERM)
        assert [chunk.choices[0].finish_reason for chunk in brief][-1] == "length"
        with pytest.raises(openai.APIError, match="the server is being stopped"):
            list(endless)
        assert server.process.wait(60) == 0
        assert 7 < time.monotonic() - started < 40
        assert server.log.read_text().rstrip().endswith("stopped")
        with pytest.raises(openai.APIConnectionError):
            client.models.list()


def test_ctrl_c_ends_an_idle_server(folder: Path) -> None:
    with running(folder, ["serve", "--port", "0"]) as server:
        server.terminate(signal.SIGINT)
        assert server.process.wait(60) == 0


def _short(server: Running) -> int:
    found = server.client().chat.completions.create(model="finetune-001", messages=asking("x"), max_tokens=3)
    assert found.usage is not None
    return found.usage.completion_tokens
