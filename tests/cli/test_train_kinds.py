"""`qllava train --kinds`, and the example that ablates kinds with it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from qllava_cli.main import main
from qllava_cli.options import resolve_recipe

from qllava.plan import device
from qllava.train.kinds import restrict_to_kinds
from qllava.train.request import claim_run
from tests.train.workspace import make_workspace, request, tiny_recipe

EXAMPLE = Path(__file__).parents[2] / "examples" / "ablate_kinds.py"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: data of two kinds, 8 samples each, and one of none."""
    monkeypatch.setattr(device, "nvidia_present", lambda: False)
    make_workspace(tmp_path)
    path = tmp_path / "data" / "instruct.json"
    rows = json.loads(path.read_text())
    for row in rows[:-1]:
        row["kind"] = "conversation" if "What" in row["id"] else "detail"
    path.write_text(json.dumps(rows))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_recipe(tmp_path).model_dump(mode="json")))
    (tmp_path / "qllava.yaml").write_text("recipe: tiny.yaml\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["qllava", *arguments])
    return main()


def test_other_kinds_are_another_run(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = workspace / "data" / "align.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([row | {"kind": "short" if n % 2 else "long"} for n, row in enumerate(rows)]))
    assert run(monkeypatch, "train", "--stage", "1", "--max-steps", "1", "--kinds", "long,short=25%") == 0
    assert "kinds long 4, short 1 of 4 (3 samples left out; --kinds)" in capsys.readouterr().err
    folder = workspace / "runs" / "align-001"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["data"]["samples"] == 5
    # Pretend that it was cut off: the same kinds continue it, however they are written, others do not.
    (folder / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    base = request(workspace, "align", recipe=resolve_recipe(flags={"align.max_steps": 1}).recipe)

    def claimed(kinds: str) -> Path:
        data, table, _ = restrict_to_kinds(base.data, base.conversations, kinds)
        return claim_run(replace(base, data=data, conversations=table))[0]

    assert claimed("short=0.25,long").name == "align-001"
    assert claimed("long").name == "align-002"
    assert claimed("long,short=50%").name == "align-002"
    assert claim_run(base)[0].name == "align-002"


def test_a_dry_run_counts_and_mistakes_are_one_line(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "train", "--stage", "2", "--dry-run", "--kinds", "detail=50%") == 0
    assert "samples 4" in capsys.readouterr().err
    assert run(monkeypatch, "train", "--stage", "2", "--dry-run", "--kinds", "complex") == 2
    assert "error: --kinds complex is not in the data; it has conversation, detail" in capsys.readouterr().err
    assert run(monkeypatch, "train", "--stage", "1", "--dry-run", "--kinds", "caption") == 1
    assert "--kinds needs data that marks kinds" in capsys.readouterr().err


def test_the_ablation_names_its_five_rows() -> None:
    command = [sys.executable, str(EXAMPLE), "--bench", "coco", "--judge", "tiny", "--max-cost", "10", "--print"]
    done = subprocess.run([*command, "--", "--max-steps", "5"], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert sum(line.startswith("# ") for line in lines) == 5
    trained = [line for line in lines if line.startswith("qllava train")]
    assert len(trained) == 4
    assert "--kinds conversation,detail=5%,reasoning=10%" in trained[2].replace("'", "")
    assert all(line.endswith("--yes --max-steps 5") for line in trained)
    judged = [line for line in lines if line.startswith("qllava eval llava-bench coco")]
    assert len(judged) == 5
    assert "--run runs/align-001" in judged[-1]
    assert all("--max-cost 2.0" in line for line in judged)
