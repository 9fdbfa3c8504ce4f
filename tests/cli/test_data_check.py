"""`qllava data check` as people run it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from qllava_cli import options
from qllava_cli.main import main

from qllava.data.findings import MOST_BAD
from tests.data.tiny_tokenizers import byte_level


def _row(identity: str, image: str, answer: str = "A cat.") -> dict[str, object]:
    turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": answer}]
    return {"id": identity, "image": image, "conversations": turns}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with data, pictures and a qllava.yaml that names a tokenizer and a tower's config made here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QLLAVA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "tower").mkdir()
    (tmp_path / "tower" / "config.json").write_text(
        '{"model_type": "clip_vision_model", "image_size": 8, "patch_size": 4}'
    )
    byte_level().save_pretrained(tmp_path / "words")
    (tmp_path / "words" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "qllava.yaml").write_text(
        "recipe: smol\nmodel: {language_model: words, vision_tower: tower}\ndata: {max_length: 100}\n"
    )
    (tmp_path / "coco").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "coco" / "a.png")
    rows = [_row("one", "a.png"), _row("two", "gone.png"), _row("three\x1b[31m", "a.png", " "), _row("four", "a.png")]
    (tmp_path / "instruct.json").write_text(json.dumps(rows))
    return tmp_path


@pytest.mark.usefixtures("workplace")
def test_table_list_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "instruct.json", "--images", "coco"]) == 1
    out, err = capsys.readouterr()
    assert re.search(r"^ +missing +1 +the picture is not there *$", out, re.MULTILINE)
    assert re.search(r"^ +duplicate +1 +equal to an earlier sample *$", out, re.MULTILINE)
    assert "row 1 (two) missing: image 'gone.png' is not in coco; check the image folder (--images)\n" in out
    assert "row 2 (three[31m) empty_answer: an answer is empty; write one or remove the turn\n" in out
    tables = [line for line in out.splitlines() if not line.startswith("row ")]
    assert max(map(len, tables)) <= 80
    assert "\x1b" not in out
    assert "data instruct.json (4 samples)" in err
    assert "verdict training would refuse it (50.00% bad, more than 0.10%; --max-bad)" in err
    assert main(["data", "check", "instruct.json", "--images", "coco", "--max-bad", "0.5"]) == 0
    assert "verdict can be trained on in stage 2 (50.00% bad, they are left out; --max-bad)" in capsys.readouterr().err


@pytest.mark.usefixtures("workplace")
def test_everything_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "check", "instruct.json", "--images", "coco", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["bad_share"], found["thorough"]) == (4, 0.5, True)
    assert [(item["row"], item["reason"]) for item in found["bad"]] == [(1, "missing"), (2, "empty_answer")]


@pytest.mark.usefixtures("workplace")
def test_the_clean_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "instruct.json", "--images", "coco", "--fix", "clean.json"]) == 0
    assert "next: qllava train --stage 2 --data clean.json --images coco" in capsys.readouterr().err
    assert [row["id"] for row in json.loads(Path("clean.json").read_text())] == ["one"]  # the fourth says the same
    assert main(["data", "check", "clean.json", "--images", "coco"]) == 0
    assert main(["data", "check", "instruct.json", "--images", "coco", "--fix", "clean.json"]) == 2
    assert "error: --fix clean.json exists; name a new file" in capsys.readouterr().err


@pytest.mark.usefixtures("workplace")
def test_stage_one_wants_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
    rows = [_row("one", "a.png"), {"id": "text", "conversations": turns}]
    Path("align.json").write_text(json.dumps(rows))
    assert main(["data", "check", "align.json", "--images", "coco"]) == 0
    err = capsys.readouterr().err
    assert "stage align (template plain, at most 100 tokens; --stage)" in err
    assert "1 samples without a picture are left out of stage 1" in err


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from qllava_cli.main import main; main(['data', 'check', '--help']); "
        "assert not {'torch', 'transformers', 'datasets', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert options.MOST_BAD == MOST_BAD
