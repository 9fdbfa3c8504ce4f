"""`qllava data merge` as people run it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from qllava_cli.main import main

from qllava.datagen.pipeline import generate
from tests.datagen.conftest import coco_split

Folders = Callable[[], None]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    """data-1 and data-2 in the current directory, about two splits of one folder."""

    def make() -> None:
        monkeypatch.chdir(tmp_path)
        pictures = [(["a dog"], [("dog", [5.0, 5.0, 20.0, 20.0])])] * 4
        for number in ("1", "2"):
            coco_split(tmp_path / "coco", f"s{number}", pictures, first=int(number) * 50)
            annotations = (tmp_path / "coco" / "annotations").rename(tmp_path / f"notes-{number}")
            generate(Path("coco"), annotations, Path(f"data-{number}"))

    return make


def test_merge(folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders()
    assert main(["data", "merge", "data", "data-1", "data-2"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    printed = captured.err.splitlines()
    assert printed[0] == "merged 2 folders"
    assert "pictures 4 (held out 4)" in printed
    assert "captions 4" in printed
    assert printed[-1] == "next: qllava train --stage 1"
    assert json.loads((tmp_path / "data" / "card.json").read_text())["image_root"] == "../coco"
    shutil.rmtree(tmp_path / "coco")
    assert main(["data", "merge", "more", "data-1", "data-2"]) == 0
    printed = capsys.readouterr().err.splitlines()
    assert any(line.startswith("the pictures are not here: ") and "more/card.json" in line for line in printed)
    assert printed[-1] == "next: qllava train --stage 1 --data more/align.json"


def test_errors_are_one_line(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    folders()
    assert main(["data", "merge", "data", "data-1"]) == 2
    assert capsys.readouterr().err.startswith("error: 1 folder is nothing to merge; give it the folders of")
    assert main(["data", "merge", "data", "data-1", "nowhere"]) == 1
    assert capsys.readouterr().err.startswith("error: nowhere/card.json cannot be read (No such file or directory)")


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys; from qllava_cli.main import main; main(['data', 'merge', '--help']); import qllava.datagen.merge, "
        "qllava.datagen.sources, qllava.datagen.balance; "
        "assert not {'torch', 'transformers', 'datasets', 'pyarrow', 'numpy', 'PIL', 'openai'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
