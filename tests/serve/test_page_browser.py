"""The chat page in a real browser, where playwright and a Chromium are: a picture, two turns, answers that stream."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.infer.tiny_run import picture
from tests.serve.server import running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")

# What stands in the chats with and without the picture.
CHATS = """() => ['seeing', 'unseeing'].map(name =>
  [...document.querySelectorAll(`#${name} .message-content`)].map(message => message.innerText.trim()))"""


def ask(page: Any, question: str) -> tuple[list[list[str]], list[int]]:
    """Both chats once a question is answered, and the lengths of the answer that were seen on the way."""
    before = len(page.evaluate(CHATS)[0])
    page.fill("#question textarea", question)
    page.press("#question textarea", "Enter")
    page.wait_for_selector("#question .stop-button")
    lengths: list[int] = []
    while page.locator("#question .stop-button").count():
        chat = page.evaluate(CHATS)[0]
        if len(chat) == before + 2 and (not lengths or lengths[-1] != len(chat[-1])):
            lengths.append(len(chat[-1]))
        page.wait_for_timeout(5)
    return page.evaluate(CHATS), lengths


@pytest.mark.slow  # a browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_picture_two_turns_and_the_answer_without_the_picture(long_folder: Path, tmp_path: Path) -> None:
    picture(200).save(tmp_path / "picture.png")
    problems: list[str] = []
    serve = ["serve", "--port", "0", "--max-tokens", "1000"]
    with running(long_folder, serve) as server, playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        own = (server.url, "data:", "blob:")
        page.on("request", lambda sent: None if sent.url.startswith(own) else problems.append(sent.url))
        page.goto(server.url)
        page.set_input_files("#picture input[type=file]", str(tmp_path / "picture.png"))
        page.wait_for_selector("#picture img")
        page.wait_for_timeout(1000)  # a new picture begins a new conversation: not after the question
        first, seen = ask(page, "What is this?")
        page.check("#blind input")
        second, _ = ask(page, "And what else?")
        page.fill("#question textarea", "Go on")
        page.press("#question textarea", "Enter")
        page.locator("#question .stop-button").click()
        server.wait_until(inside=0, active=0)
        stopped = page.evaluate(CHATS)[0]
        page.get_by_role("button", name="New conversation").click()
        page.wait_for_selector("#seeing .message-content", state="detached")
        anew = page.evaluate(CHATS)
        browser.close()
    assert problems == []
    assert len(seen) > 3  # it came in pieces
    (told,) = first[0][1:]
    assert first == [["What is this?", told], []]
    assert second[0][:3] == ["What is this?", told, "And what else?"]
    assert second[1][0] == "And what else?"  # what was asked before was not asked blind
    assert len(second[0]) == 4
    assert len(second[1]) == 2
    assert second[0][3] != second[1][1]
    assert stopped[:5] == [*second[0], "Go on"]
    assert anew == [[], []]
