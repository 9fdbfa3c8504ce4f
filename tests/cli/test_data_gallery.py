from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from qllava_cli.data import gallery
from qllava_cli.main import main

from qllava.report.gallery import DEFAULT_LIMIT


def test_the_command_says_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Image.new("RGB", (8, 8)).save("a.png")
    Path("data/card.json").write_text(json.dumps({"image_root": "..", "teacher": "template"}))
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A square."}]
    rows = [{"id": name, "image": f"{name}.png", "conversations": turns} for name in ("a", "b")]
    Path("data/instruct.json").write_text(json.dumps(rows))
    Path("data/rejected.jsonl").write_text('{"reason": "split not on disk", "split": "val"}\n')
    assert main(["data", "gallery", "data/"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "data/gallery.html\n"
    assert "pictures 2 (all of them; --limit)\n" in captured.err
    assert "not on disk 1 (shown as empty frames)\n" in captured.err
    assert "samples 2 (rejected 0)\n" in captured.err
    assert "not shown 1 (rejections that name no picture; they are in rejected.jsonl)\n" in captured.err
    assert "pages 1 (0.0 MB)\n" in captured.err
    assert main(["data", "gallery", "--limit", "1", "--out", "x/one.html"]) == 0
    assert "pictures 1 (of 2, spread evenly; --limit)\n" in capsys.readouterr().err
    assert Path("x/one.html").is_file()
    assert main(["data", "gallery", "elsewhere"]) == 2
    assert capsys.readouterr().err.startswith("error: data folder elsewhere does not exist; write one with")


def test_the_default_limit_is_the_librarys() -> None:
    assert inspect.signature(gallery).parameters["limit"].default == DEFAULT_LIMIT


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys; from qllava_cli.main import main; main(['data', 'gallery', '--help']); "
        "assert not {'torch', 'transformers', 'datasets', 'PIL', 'openai'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
