import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
from qllava_cli.main import main

from tests.infer.tiny_run import picture
from tests.serve.server import make_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a finished run and a picture."""
    root = tmp_path_factory.mktemp("serve-cli")
    make_run(root)
    picture(20).save(root / "image.jpg")
    return root


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("EMPTY", " ")
    monkeypatch.setenv("SPACED", "a b")
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--host", "0.0.0.0"], 2, "--host 0.0.0.0 lets others in; give them a key with --api-key-env NAME"),  # noqa: S104
        (["--host", "192.0.2.1"], 2, "--host 192.0.2.1 lets others in"),
        (["--api-key-env", "NOT_SET"], 2, "--api-key-env NOT_SET: that variable is empty or not set"),
        (["--api-key-env", "EMPTY"], 2, "--api-key-env EMPTY: that variable is empty or not set"),
        (["--api-key-env", "SPACED"], 2, "--api-key-env SPACED: a key is printable ASCII without spaces"),
        (["image.jpg"], 1, "image.jpg is no run folder"),
        (["--runs", "empty"], 1, "there is no finetune run under empty"),
        (["--temperature", "-1"], 2, "temperature=-1 is not in 0 to 100"),
        (["--port", "70000"], 2, "invalid value for '--port': Input should be less than or equal to 65535"),
        (["--batch", "0"], 2, "invalid value for '--batch': Input should be greater than or equal to 1"),
    ],
)
def test_bad_input_is_one_line(
    here: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert main(["serve", *arguments]) == code
    out, err = capfd.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert out == ""


def test_a_taken_port_is_told_before_the_model_is_loaded(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    err = capfd.readouterr().err
    expected = f"error: cannot listen on 127.0.0.1 port {port} (Address already in use); choose others with --host"
    assert expected in err
    assert "base" not in err


def test_chat_web_opens_the_page_with_the_picture(here: Path) -> None:
    """The browser is a script that writes down what it was asked to open."""
    browser = here / "browser"
    browser.write_text('#!/bin/sh\necho "$1" > opened\n')
    browser.chmod(browser.stat().st_mode | stat.S_IXUSR)
    process = subprocess.Popen(
        [sys.executable, "-m", "qllava_cli.main", "chat", "image.jpg", "--web", "--max-tokens", "5"],
        env={**os.environ, "BROWSER": str(browser)},
        stderr=subprocess.PIPE,
    )
    try:
        opened = here / "opened"
        end = time.monotonic() + 240
        while not (opened.is_file() and opened.read_text().endswith("\n")):
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.1)
        url = opened.read_text().strip()
        with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
            parts = {part["props"].get("label"): part["props"] for part in client.get("/config").json()["components"]}
            assert parts["Longest answer, tokens"]["value"] == 5
            shown = client.get(parts["Picture"]["value"]["url"])
            assert shown.content == (here / "image.jpg").read_bytes()
            assert shown.headers["content-type"] == "image/jpeg"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("arguments", "missing", "message"),
    [
        (["serve"], {"starlette", "uvicorn", "gradio"}, "serving needs starlette and uvicorn; {}'qllava[serve]'`"),
        (["serve", "--page"], {"gradio"}, "the chat page needs gradio; {}'qllava[page]'`"),
        (["chat", "image.jpg", "--web"], {"gradio"}, "the chat page needs gradio; {}'qllava[page]'`"),
        (["chat", "--web"], {"uvicorn", "gradio"}, "the chat page needs uvicorn and gradio; {}'qllava[page]'`"),
    ],
)
def test_an_extra_that_is_missing_is_named(
    here: Path,
    arguments: list[str],
    missing: set[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("qllava_cli.serve.find_spec", lambda name: None if name in missing else name)
    assert main(arguments) == 2
    assert message.format("install with `pip install ") in capfd.readouterr().err


def test_prompt_and_web_exclude_each_other(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "image.jpg", "--web", "--prompt", "x"]) == 2
    assert "error: --prompt answers in the terminal; leave it out with --web" in capfd.readouterr().err
