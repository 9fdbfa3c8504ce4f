import asyncio
import html
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx2
import pytest

from qllava.serve.dialogue import Answer
from qllava.serve.page_view import converse, said, turns
from tests.infer.tiny_run import picture
from tests.serve.hall import Hall
from tests.serve.server import Running, encoded, running

KEY = "sesame-123"


def client(server: Running) -> httpx2.Client:
    return httpx2.Client(base_url=server.url, timeout=60, trust_env=False)


def config(page: str) -> dict[str, Any]:
    (found,) = re.findall(r"window\.gradio_config = (\{.*?\});</script>", page)
    return dict(json.loads(found))


def upload(asking: httpx2.Client, content: bytes, name: str = "a.png") -> httpx2.Response:
    return asking.post("/gradio_api/upload", files={"files": (name, content, "image/png")})


def test_a_chat_shows_every_word_and_holds_what_was_said() -> None:
    told = "  <b>1</b>\n\n* a   b\n"
    first = turns([], "Q 1?", Answer(told))
    assert [turn["role"] for turn in first] == ["user", "assistant"]
    stopped = turns(first, "Q 2?", Answer())
    whole = turns(stopped, "Q 3?", Answer("A 3"))
    assert said(whole) == (("Q 1?", told), ("Q 3?", "A 3"))
    assert said([]) == ()


DRAWN = (0.0, 1.0, 5, 0)


def shown(*arguments: Any) -> list[tuple[Any, Any, Any]]:
    """All that the page shows of a question."""

    async def collect() -> list[tuple[Any, Any, Any]]:
        return [state async for state in converse(*arguments)]

    return asyncio.run(collect())


def test_a_question_is_shown_at_once_and_its_answers_side_by_side(hall: Callable[..., Hall], tmp_path: Path) -> None:
    picture(20).save(tmp_path / "a.png")
    before = turns([], "Q 0?", Answer("A 0"))
    states = shown(hall().dialogue, " Q? ", str(tmp_path / "a.png"), before, [], DRAWN)
    seen, unseen, entry = states[0]
    assert seen == turns(before, "Q?", Answer())
    assert unseen == turns([], "Q?", Answer())
    assert (entry.value, entry.submit_btn, entry.stop_btn) == ("", False, True)
    seen, unseen, entry = states[-1]
    assert [question for question, _ in said(seen)] == ["Q 0?", "Q?"]
    assert [question for question, _ in said(unseen)] == ["Q?"]
    assert said(seen)[1][1] != said(unseen)[0][1]
    assert (entry.submit_btn, entry.stop_btn) == (True, False)


def test_without_a_picture_there_is_nothing_to_leave_out(hall: Callable[..., Hall]) -> None:
    states = shown(hall().dialogue, "Q?", None, [], [], DRAWN)
    assert states
    assert all(unseen is None for _, unseen, _ in states)
    assert shown(hall().dialogue, "  ", None, [], [], DRAWN) == []


def test_a_question_that_got_no_word_comes_back(hall: Callable[..., Hall], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.warns(UserWarning, match="The answer failed: the picture: the picture is refused: it cannot be read"):
        states = shown(hall().dialogue, "Q?", str(tmp_path / "a.png"), [], [], DRAWN)
    seen, unseen, entry = states[-1]
    assert seen == []
    assert len(said(unseen)) == 1
    assert (entry.value, entry.submit_btn, entry.stop_btn) == ("Q?", True, False)


@pytest.mark.parametrize(
    ("file", "drawn", "message"),
    [
        ("gone.png", DRAWN, "The picture is no longer on the server; drop it again."),
        (None, (0.0, 1.0, 5, None), "A sampling control is empty; give it a number."),
        (None, (0.0, 0.0, 5, 0), "top_p=0 is not above 0 and at most 1"),
        (None, (0.0, 1.0, 0, 0), "max_new_tokens=0 leaves no room for an answer"),
    ],
)
def test_what_cannot_be_used_is_told(hall: Callable[..., Hall], file: Any, drawn: Any, message: str) -> None:
    with pytest.raises(gr.Error) as caught:
        shown(hall().dialogue, "Q?", file, [], None, drawn)
    assert message in caught.value.message


def test_the_browser_is_told_to_ask_nobody_else(server: Running) -> None:
    with client(server) as asking:
        page = asking.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        for response in (page, asking.get("/theme.css"), asking.get("/nothing-here")):
            policy = response.headers["content-security-policy"]
            assert policy.startswith("default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; ")
            assert "http" not in policy
            assert response.headers["x-frame-options"] == "DENY"
            assert response.headers["referrer-policy"] == "no-referrer"
        # Neither fonts nor scripts come from elsewhere; what is left are words about Gradio for search engines.
        loads = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"(https?:[^\"]*)", html.unescape(page.text))
        assert loads == []
        assert "https:" not in asking.get("/theme.css").text


def test_it_shows_the_servers_model_settings_and_examples(server: Running) -> None:
    with client(server) as asking:
        found = config(asking.get("/").text)
        parts = {part["props"].get("label"): part["props"] for part in found["components"]}
        assert found["title"] == "exact - qllava"
        assert parts["Temperature"]["value"] == 0
        assert parts["Top-p"]["value"] == 1
        assert parts["Longest answer, tokens"]["value"] == 512
        (((sample,),),) = [parts["Examples"]["samples"]]
        assert asking.get(sample["url"]).content == (server.log.parent / "example.png").read_bytes()
        assert found["analytics_enabled"] is False
        assert found["footer_links"] == []


def test_files_of_this_machine_stay_here(server: Running) -> None:
    with client(server) as asking:
        secret = server.log.parent / "runs" / "finetune-001" / "manifest.json"
        assert next(secret.parent.iterdir())
        around = f"{server.log.parent}/example.png/../runs/finetune-001/manifest.json"
        for path in (secret, around, "/etc/passwd"):
            assert asking.get(f"/gradio_api/file={path}").status_code == 403, path
        assert asking.get("/gradio_api/proxy=http://127.0.0.1:1/").status_code >= 400


def test_a_picture_that_is_too_large_is_not_taken(server: Running) -> None:
    with client(server) as asking:
        assert upload(asking, encoded(picture(3))).status_code == 200
        assert upload(asking, b"\0" * (21 << 20)).status_code == 413


def test_pages_of_other_sites_get_nothing(server: Running) -> None:
    with client(server) as asking:
        assert asking.get("/", headers={"Origin": "http://evil.example"}).status_code == 403
        assert asking.get("/config", headers={"Host": "evil.example"}).status_code == 403


@pytest.fixture(scope="module")
def keyed(folder: Path) -> Iterator[Running]:
    with running(folder, ["serve", "--port", "0", "--api-key-env", "TEST_KEY"], key=KEY) as found:
        yield found


def test_who_lacks_the_key_sees_the_login_alone(keyed: Running) -> None:
    with client(keyed) as asking:
        found = config(asking.get("/").text)
        assert found["auth_required"] is True
        assert found.get("components", []) == []
        assert asking.get("/config").status_code == 401
        assert asking.get("/gradio_api/info").status_code == 401
        assert upload(asking, encoded(picture(3))).status_code == 401
        assert asking.post("/gradio_api/queue/join", json={"data": [], "fn_index": 0}).status_code == 401
        assert asking.get("/gradio_api/queue/data?session_hash=x").status_code == 401
        assert asking.get("/v1/models").status_code == 401
        assert asking.get("/health").status_code == 200


def test_the_key_is_the_password(keyed: Running) -> None:
    with client(keyed) as asking:
        for wrong in ("", KEY[:-1], KEY + "4", "s\u00e9same"):
            assert asking.post("/login", data={"username": "me", "password": wrong or " "}).status_code == 400, wrong
        assert asking.get("/config").status_code == 401
        assert asking.post("/login", data={"username": "me", "password": KEY}).status_code == 200
        assert "components" in asking.get("/config").json()
        assert asking.get("/v1/models").status_code == 401  # a page of this browser is no client


def test_without_the_page_only_the_api_is_there(folder: Path) -> None:
    with (
        running(folder, ["serve", "--port", "0", "--no-page", "--api-key-env", "TEST_KEY"], key=KEY) as server,
        client(server) as asking,
    ):
        assert asking.get("/").status_code == 401
        asking.headers["Authorization"] = f"Bearer {KEY}"
        found = asking.get("/")
        assert found.status_code == 404
        assert found.json()["error"]["message"].startswith("there is nothing at '/'; the API is at /v1/")
