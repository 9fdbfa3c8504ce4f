"""What was trained here, as `qllava runs` tells it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from qllava_cli.main import main

from qllava.checkpoint.manifest import Manifest


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("align-001", "finetune-001", "finetune-010", "finetune-002"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    model = {"language_model": "embedded:smollm2-135m", "quantization": "nf4"}
    data = {"path": "data/align.json", "samples": 2000}
    done = Manifest("align", "finished", "r", data, model, steps=100, total_steps=100, command="qllava train --stage 1")
    done.with_changes(picture={"right": 1.02, "shuffled": 1.63, "none": 3.84}).write(tmp_path / "runs" / "align-001")
    source = {"run": "align-001", "projector": "ab" * 32}
    under_way = done.with_changes(stage="finetune", status="interrupted", steps=1200, total_steps=5197, source=source)
    for name in ("finetune-002", "finetune-010"):
        under_way.write(tmp_path / "runs" / name)
    (tmp_path / "runs" / "finetune-001" / "manifest.json").write_text("{")
    return tmp_path / "runs"


def test_all_runs_are_listed_in_order_and_a_damaged_one_is_named(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "list"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "align-001       finished         100 of 100  loss 1.02, with another picture 1.63",
        "finetune-002    interrupted  1,200 of 5,197",
        "finetune-010    interrupted  1,200 of 5,197",
    ]
    assert err.strip() == "runs/finetune-001/manifest.json is damaged; restore it or move the run away"
    assert main(["runs", "list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["align-001", "finetune-002", "finetune-010"]
    assert told["align-001"]["picture"]["right"] == 1.02


def test_one_run_by_name_or_folder(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "show", "finetune-010"]) == 0
    by_name = capsys.readouterr().out
    shown = dict(line.split("  ", 1) for line in by_name.splitlines())
    assert {name: value.strip() for name, value in shown.items()}.items() >= {
        "state": "interrupted, 1,200 of 5,197 steps",
        "model language model": "embedded:smollm2-135m",
        "data samples": "2000",
        "from run": "align-001",
        "command": "qllava train --stage 1",
    }.items()
    assert main(["runs", "show", "runs/finetune-010"]) == 0
    assert capsys.readouterr().out == by_name
    assert main(["runs", "show", "align-001"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["loss,", "shuffled", "picture", "1.630"] in lines
    assert ["loss,", "no", "picture", "3.840"] in lines
    assert main(["runs", "show", "align-001", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 100


def test_no_run_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["runs", "list"]) == 0
    out, err = capsys.readouterr()
    assert (out, err.strip()) == ("", "there is no run under runs; make one with `qllava train --stage 1`")
    assert main(["runs", "show", "align-001"]) == 1
    assert capsys.readouterr().err.strip() == "error: align-001 is no run folder: it holds no manifest.json"
