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

# How much of answer number n stands there, and whether it is still being written.
PROGRESS = """n => {
  const answers = document.querySelectorAll('.answers')[n];
  return answers ? [answers.querySelector('p')?.textContent ?? '', !!answers.querySelector('.busy')] : null;
}"""


def ask(page: Any, question: str) -> tuple[list[str], list[int]]:
    """The answers to a question, and the lengths of the first one that were seen on the way."""
    number = page.locator(".answers").count()
    page.fill("#question", question)
    page.press("#question", "Enter")
    lengths: list[int] = []
    for _ in range(12_000):
        state = page.evaluate(PROGRESS, number)
        if state is not None:
            if not lengths or lengths[-1] != len(state[0]):
                lengths.append(len(state[0]))
            if not state[1] and page.locator("#send").is_visible():
                break
        page.wait_for_timeout(5)
    return [answer.inner_text() for answer in page.locator(".answers").nth(number).locator(".answer").all()], lengths


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
        page.on("console", lambda line: problems.append(line.text) if line.type in ("error", "warning") else None)
        own = (server.url, "data:", "blob:")
        page.on("request", lambda sent: None if sent.url.startswith(own) else problems.append(sent.url))
        page.goto(server.url)
        page.wait_for_function("document.getElementById('model').textContent !== ''")
        page.set_input_files("#file", str(tmp_path / "picture.png"))
        page.wait_for_selector("#drop img:visible")
        first, seen = ask(page, "What is this?")
        page.check("#blind")
        second, _ = ask(page, "And what else?")
        browser.close()
    assert problems == []
    assert len(seen) > 3  # it came in pieces
    assert len(first) == 1
    assert len(second) == 2  # with the picture, and without
    assert all(first + second)
