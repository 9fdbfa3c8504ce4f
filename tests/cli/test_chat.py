import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from qllava_cli.main import main

from tests.infer.tiny_run import picture, tiny_recipe, write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a finished run and two pictures."""
    root = tmp_path_factory.mktemp("chat")
    write_run(root / "runs" / "finetune-001", tiny_recipe(root, quantization="nf4"))
    picture(20).save(root / "image.jpg")
    picture(250, 200).save(root / "other picture.png")
    (root / "text.jpg").write_text("not a picture")
    return root


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    return folder


def pipe(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_prompt_answers_once_on_stdout(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "image.jpg", "--prompt", "How many?", "--max-tokens", "6"]) == 0
    out, err = capfd.readouterr()
    assert out.endswith("\n")
    assert out.strip()
    assert "run runs/finetune-001 (1 steps; --run)" in err
    assert "NF4, 4 bits, on cpu" in err
    assert "template chatml" in err
    assert "sampling greedy, at most 6 tokens" in err
    assert main(["chat", "image.jpg", "--prompt", "How many?", "--max-tokens", "6"]) == 0
    assert capfd.readouterr().out == out


def test_piped_lines_are_one_conversation(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(lines: str) -> list[str]:
        pipe(monkeypatch, lines)
        assert main(["chat", "image.jpg", "--max-tokens", "4"]) == 0
        # Answers of this model may hold odd characters, a line break among them never: each is a line.
        return [line for line in capfd.readouterr().out.split("\n") if line]

    alone = said("How many?\n")
    assert said("How many?\n/reset\nHow many?\n/exit\nnever asked\n") == alone * 2
    two = said("How many?\n\nWhat color?\n")
    assert two[: len(alone)] == alone
    assert two[len(alone) :] != said("What color?\n")
    other = said("/image other picture.png\nHow many?\n")
    assert other != alone


def test_without_a_picture_it_says_so(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, "")
    assert main(["chat"]) == 0
    assert "no picture: the answers come from the language model alone" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.jpg"], 2, "error: image none.jpg does not exist; give the path of a picture"),
        (["runs"], 2, "error: image runs is a folder; give the path of a picture"),
        (["text.jpg"], 1, "error: image text.jpg is not a picture that PIL can read"),
        (["--runs", "empty"], 1, "there is no finetune run under empty; make one with `qllava train --stage 2`"),
        (["--run", "image.jpg"], 1, "image.jpg is no run folder"),
        (["--prompt", " "], 2, "--prompt is empty; give a question"),
        (["--temperature", "-1"], 2, "temperature=-1 is not in 0 to 100"),
        (["--prompt", "Y " * 300], 1, "tokens and the model holds 256; start anew"),
    ],
)
def test_bad_input_is_one_line(
    here: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert main(["chat", *arguments]) == code
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


def test_a_bad_command_in_a_pipe_ends_it(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, "/nonsense\nHow many?\n")
    assert main(["chat", "image.jpg"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "error: unknown command /nonsense; there are /image PATH" in err


class Terminal:
    """A chat in a real terminal."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "qllava_cli.main", "chat", *arguments],
            cwd=folder,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "dumb", "COLUMNS": "200"},
        )
        os.close(slave)
        self.shown = ""

    def wait_for(self, pattern: str, timeout: float = 90.0) -> str:
        """Read until a pattern shows; returns and forgets what was shown up to it."""
        end = time.monotonic() + timeout
        while not (match := re.search(pattern, self.shown)):
            assert time.monotonic() < end, self.shown
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.shown += os.read(self.master, 4096).decode(errors="replace")
                except OSError:
                    break
        assert match, self.shown
        before, self.shown = self.shown[: match.end()], self.shown[match.end() :]
        return before

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())


def test_a_terminal_chat_survives_errors_and_ctrl_c_and_ends_with_ctrl_d(folder: Path) -> None:
    chat = Terminal(folder, "image.jpg", "--max-tokens", "100000")
    try:
        chat.wait_for(r"Ctrl-D leaves")
        chat.wait_for(r"> ")
        chat.type("/nonsense\n")
        chat.wait_for(r"error: unknown command /nonsense")
        chat.wait_for(r"> ")
        chat.type("/image none.jpg\n")
        chat.wait_for(r"error: image none.jpg does not exist")
        chat.wait_for(r"> ")
        chat.type("How many?\n")
        chat.wait_for(r"How many\?\r\n.+")
        os.kill(chat.process.pid, signal.SIGINT)
        chat.wait_for(r"stopped")
        chat.wait_for(r"> ")
        time.sleep(0.5)  # between showing its prompt and waiting for keys, readline misses signals
        os.kill(chat.process.pid, signal.SIGINT)  # at the prompt: drops the line
        chat.wait_for(r"> ")
        chat.type("\x04")
        assert chat.process.wait(30) == 0
    finally:
        chat.process.kill()
        chat.process.wait()
        os.close(chat.master)
