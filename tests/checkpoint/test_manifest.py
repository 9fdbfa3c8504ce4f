"""Run folders and what they say of themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qllava.checkpoint.load import find_run
from qllava.checkpoint.manifest import Manifest, list_runs, newest_finished, next_folder, read_run
from qllava.errors import RunError


def make_run(root: Path, name: str, status: str = "finished") -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    stage = name.partition("-")[0]
    Manifest(
        stage=stage,  # type: ignore[arg-type]
        status=status,  # type: ignore[arg-type]
        recipe="r",
        data={"sha256": "d"},
        model={},
        steps=3,
        total_steps=9,
        command="qllava train --stage 2",
    ).write(folder)
    return folder


def test_numbers_go_by_stage_and_sort_as_numbers(tmp_path: Path) -> None:
    for name in ("align-002", "align-010", "finetune-001", "align-1000"):
        make_run(tmp_path, name)
    (tmp_path / "align-009").mkdir()  # no manifest: no run, but its number is taken
    (tmp_path / "notes").mkdir()
    assert [run.number for run in list_runs(tmp_path, "align")] == [2, 10, 1000]
    assert next_folder(tmp_path, "align").name == "align-1001"
    assert next_folder(tmp_path, "finetune").name == "finetune-002"
    assert next_folder(tmp_path / "none", "align").name == "align-001"


def test_newest_is_the_highest_finished(tmp_path: Path) -> None:
    make_run(tmp_path, "finetune-001")
    make_run(tmp_path, "finetune-002", status="interrupted")
    newest = newest_finished(tmp_path, "finetune")
    assert newest is not None
    assert newest.folder.name == find_run(tmp_path).folder.name == "finetune-001"


def test_round_trip(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "align-001", status="running")
    run = read_run(folder)
    assert (run.manifest.status, run.manifest.steps, run.finished) == ("running", 3, False)


def test_nothing_to_talk_to(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no finetune run under .*; make one with `qllava train --stage 2`"):
        find_run(tmp_path)
    folder = make_run(tmp_path, "finetune-001", status="interrupted")
    expected = r"interrupted.* step 3 of 9; continue it with `qllava train --stage 2`"
    with pytest.raises(RunError, match=expected):
        find_run(tmp_path)
    with pytest.raises(RunError, match=r"is interrupted, not finished; continue it with"):
        find_run(tmp_path, folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "manifest.json is damaged; restore it or move the run away"),
        ('{"stage": "align"}', "manifest.json is damaged"),
        (None, "is no run folder: it holds no manifest.json"),
    ],
)
def test_damaged_manifests_are_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(RunError, match=message):
        read_run(tmp_path)


def test_newer_formats_are_refused(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "align-001")
    values = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**values, "format": 99}))
    with pytest.raises(RunError, match="has format 99, this qllava reads 1; update qllava"):
        read_run(folder)
