"""`qllava gen-data` with a language model as people run it: the price, the question, the refusals."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.datagen.conftest import TeacherServer, many_pictures

ROOT = Path(__file__).parents[2]
CLI = ROOT / "cli"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TeacherServer]:
    teacher = TeacherServer(tmp_path / "server")
    yield teacher
    teacher.stop()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    many_pictures(tmp_path / "coco", 12)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    env = clean | {"PYTHONPATH": f"{ROOT}{os.pathsep}{CLI}", "TERM": "dumb", "NO_COLOR": "1"}

    def call(
        *arguments: str, key: str | None = None, stdin: int = subprocess.DEVNULL
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "qllava_cli.main", "gen-data", "--images", "coco", *arguments]
        given = env if key is None else env | {"OPENAI_API_KEY": key}
        return subprocess.run(
            command, cwd=tmp_path, env=given, stdin=stdin, capture_output=True, text=True, check=False, timeout=60
        )

    return call


def test_a_server_on_this_machine(run: Run, server: TeacherServer, tmp_path: Path) -> None:
    done = run("--base-url", server.start(), "--model", "tiny", "--limit", "5")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    printed = done.stderr.splitlines()
    assert printed[0].startswith("teacher openai (--base-url is given; http://127.0.0.1:")
    assert printed[1] == "model tiny (as asked; --model)"
    assert "pictures 5 of 12 (chosen by hash; --limit)" in printed
    assert "price unknown (tiny is in no price list, so tokens alone are counted; --prices)" in printed
    answers = len(server.log())
    assert f"cost unknown ({900 * answers:,} tokens in, {100 * answers:,} out; no price for tiny)" in printed
    assert printed[-1] == "next: qllava train --stage 1"
    assert json.loads((tmp_path / "data" / "card.json").read_text())["cost_usd"] is None


def test_a_dry_run_says_the_price_and_sends_nothing(run: Run, tmp_path: Path) -> None:
    done = run("--dry-run", "--limit", "6", key="sk-none")
    assert done.returncode == 0, done.stderr
    printed = done.stderr.splitlines()
    assert "teacher openai (OPENAI_API_KEY or OPENAI_BASE_URL is set; https://api.openai.com/v1; --teacher)" in printed
    assert "model gpt-4.1-mini-2025-04-14 (pinned; sees, and is cheap; --model)" in printed
    assert any(line.startswith("price of this run about 0.0") for line in printed)
    assert any(line.startswith("price of the whole folder about 0.0") and "12 pictures" in line for line in printed)
    assert printed[-1] == "dry run: nothing was sent and nothing written"
    assert not (tmp_path / "data").exists()


def test_without_anybody_to_ask_nothing_is_sent(run: Run, tmp_path: Path) -> None:
    done = run(key="sk-none")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "and nobody to ask; add --yes, --max-cost USD, or --teacher template" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("reply", "sent"), [(b"\n", False), (b"y\n", True)])
def test_the_question_has_no_for_an_answer(
    run: Run, server: TeacherServer, tmp_path: Path, reply: bytes, sent: bool
) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("tiny: {input: 1, output: 2}")
    master, slave = pty.openpty()
    os.write(master, reply)
    done = run("--base-url", server.start(), "--model", "tiny", "--prices", str(prices), stdin=slave)
    os.close(master)
    os.close(slave)
    assert "requests for about 0.0" in done.stderr
    if sent:
        assert done.returncode == 0, done.stderr
        assert server.log()
        assert "USD (" in done.stderr
    else:
        assert done.returncode == 1
        assert "nothing was sent; --limit makes it cheaper, --teacher template costs nothing" in done.stderr
        assert server.log() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--see"], "--see is for a language model, and the teacher is template; add --teacher openai"),
        (["--max-cost", "3"], "--max-cost is for a language model"),
        (["--temperature", "0.7"], "--temperature is for a language model, and the teacher is template"),
        (["--concurrency", "4"], "--concurrency is for a language model"),
        (["--dry-run"], "--dry-run is for a language model"),
        (["--teacher", "openai"], "OPENAI_API_KEY is not set; export it, name another server with --base-url"),
        (["--base-url", "http://localhost:9/v1"], "--base-url http://localhost:9/v1 needs --model NAME"),
        (["--image-position", "last"], "--image-position 'last' is not known; choose one of: first, random"),
        (["--base-url", "http://h:9", "--model", "m", "--mix", "x=1"], "--mix 'x=1' is not KIND=WEIGHT"),
    ],
)
def test_flags_that_cannot_work(run: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert line.startswith(f"error: {message}")
    assert not (tmp_path / "data").exists()


def test_a_dead_server_is_one_line_and_exit_1(run: Run, server: TeacherServer, tmp_path: Path) -> None:
    url = server.start()
    server.stop()
    done = run("--base-url", url, "--model", "tiny", "--retries", "0", "--concurrency", "2")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert errors == [
        "error: the teacher is not there: 10 attempts in a row without an answer (the last: cannot connect); "
        "start it or check --base-url, then repeat the command"
    ]


def test_the_picture_may_stand_last(run: Run, tmp_path: Path) -> None:
    assert run("--image-position", "random", "--yes").returncode == 0
    samples = json.loads((tmp_path / "data" / "instruct.json").read_text())
    first = [sample["conversations"][0]["value"] for sample in samples]
    assert all(value.startswith("<image>\n") != value.endswith("\n<image>") for value in first)
    assert 0 < sum(value.startswith("<image>") for value in first) < len(first)


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from qllava_cli.main import main; main(['gen-data', '--help'])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'openai', 'PIL', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    command = [sys.executable, "-c", code]
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{CLI}"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--max-cost" in done.stdout
