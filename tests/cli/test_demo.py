import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from qllava_cli import demo as command
from qllava_cli.main import main

from qllava.demo.steps import Step, demo_steps
from qllava.demo.workspace import HELDOUT_PICTURES, TRAIN_PICTURES, write_workspace
from tests.infer.tiny_run import tiny_recipe, write_run


def step(*arguments: str, stdin: str | None = None) -> Step:
    return Step(arguments, "", lambda folder: False, stdin)


def test_a_step_runs_in_the_workspace_and_is_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "qllava.yaml").write_text("recipe: nonsense\n")
    assert command.run_step(step("recipes", "show", "smol"), tmp_path) == 0
    out, err = capfd.readouterr()
    assert "$ qllava recipes show smol" in err
    assert "SmolLM2" in out
    assert command.run_step(step("recipes", "show", "none"), tmp_path) == 2


def test_ctrl_c_waits_for_the_child(tmp_path: Path) -> None:
    """The child gets its second of saving after the signal, and the parent reports 130."""
    code = (
        "import sys, qllava_cli.demo as d; from pathlib import Path; from qllava.demo.steps import Step;"
        "sys.executable = sys.argv[1];"
        "sys.exit(d.run_step(Step(('x',), '', bool), Path(sys.argv[2])))"
    )
    saver = tmp_path / "python"
    saver.write_text("#!/bin/sh\ntrap 'sleep 1; echo saved > saved; exit 130' INT\ntouch ready\nsleep 20 & wait\n")
    saver.chmod(0o755)
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "cli")])
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(saver), str(tmp_path)],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": paths},
    )
    wait_until((tmp_path / "ready").exists)
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.wait(30) == 130
    assert (tmp_path / "saved").exists()


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    import time

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_foreign_folder_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "mine").write_text("x")
    assert main(["demo"]) == 2
    assert "error: demo is there already and is no demo folder; choose another with --out" in capfd.readouterr().err


def test_the_last_line_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert command.paste_line(tmp_path / "demo") == f"cd {tmp_path / 'demo'} && qllava chat image.jpg"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "qllava").write_text("")
    assert command.paste_line(tmp_path / "my demo") == f"cd '{tmp_path / 'my demo'}' && ../bin/qllava chat image.jpg"


def test_the_demo_pipes_its_questions_into_the_chat() -> None:
    assert [s.stdin is not None for s in demo_steps()] == [False, False, False, True]


def test_a_finished_demo_is_measured_again_and_fails_below_the_gate(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is done but chat and measuring; the run is random, so it is below the gate."""
    folder = tmp_path / "demo"
    write_workspace(folder, 42, train=1, heldout=3)
    marker = json.loads((folder / ".demo.json").read_text())
    (folder / ".demo.json").write_text(json.dumps(marker | {"train": TRAIN_PICTURES, "heldout": HELDOUT_PICTURES}))
    recipe = tiny_recipe(tmp_path / "models")
    config = tmp_path / "models" / "language" / "config.json"
    # A random model never ends an answer by itself: two full ones have to fit.
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 8192}))
    write_run(folder / "runs" / "finetune-001", recipe)
    (folder / "data").mkdir()
    (folder / "data" / "card.json").write_text('{"image_root": "../coco"}')
    rows = [
        {"id": n, "image": f"val2017/{n:012d}.jpg", "question": "How many?", "answers": ["two"], "type": "count"}
        for n in (2, 3, 4)
    ]
    (folder / "data" / "heldout.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["demo"]) == 1
    out, err = capfd.readouterr()
    shown = [line for line in err.splitlines() if line.startswith("$ ")]
    assert [line[2:].split(" (")[0] for line in shown] == [step.line for step in demo_steps()]
    assert ["skipped" in line for line in shown] == [True, True, True, False]
    assert "contact sheet demo/contact_sheet.png" in err
    assert "error: exact match with the right picture is 0.00, below 0.76" in err
    assert "Exact match (95 % interval)" in out
    assert "nats a token" in out
    assert "verdict the model" in err
    assert out.splitlines()[-1].startswith("cd demo && ")
    assert out.splitlines()[-1].endswith("qllava chat image.jpg")
    assert (folder / "contact_sheet.png").is_file()
    assert json.loads((folder / "scores.json").read_text())["failures"]
