"""`qllava gen-data` as people run it: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CLI = Path(__file__).parents[2] / "cli"
ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    given = {"PYTHONPATH": f"{ROOT}{os.pathsep}{CLI}", "TERM": "dumb", "NO_COLOR": "1"}
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "qllava_cli.main", "gen-data", *arguments]
        env = os.environ | given
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=60)

    return call


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    for split, first in (("train2017", 1), ("val2017", 11)):
        (folder / split).mkdir()
        numbers = range(first, first + 4)
        images = [{"id": n, "file_name": f"{n}.jpg", "width": 10, "height": 10} for n in numbers]
        for n in numbers:
            (folder / split / f"{n}.jpg").write_bytes(b"jpeg")
        labels = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 2, 2], "iscrowd": 0} for n in numbers]
        texts = [{"id": n, "image_id": n, "caption": "a red circle"} for n in numbers]
        categories = [{"id": 1, "name": "circle"}, {"id": 2, "name": "square"}]
        content = {"images": images, "annotations": labels, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        content = {"images": images, "annotations": texts}
        (folder / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
    return folder


def test_defaults(run: Run, coco: Path, tmp_path: Path) -> None:
    done = run("--images", "coco/")
    assert (done.returncode, done.stdout) == (0, "")
    printed = done.stderr.splitlines()
    assert printed[0] == (
        "teacher template (needs no key and no model; every answer follows from the annotations; --teacher)"
    )
    assert printed[1] == "model none"
    assert "source COCO (--annotations)" in printed
    assert "pictures 4 (held out 4: the pictures of val2017)" in printed
    assert "captions 4 (one a picture)" in printed
    assert "instructions 24 (conversation 24, detail 0)" in printed
    assert "rejected 0" in printed
    assert "missing pictures 0 (every listed one is on disk)" in printed
    assert printed[-1] == "next: qllava train --stage 1"
    assert json.loads((tmp_path / "data" / "card.json").read_text())["image_root"] == "../coco"


def test_flags(run: Run, coco: Path, tmp_path: Path) -> None:
    (coco / "train2017" / "3.jpg").unlink()
    annotations = (coco / "annotations").rename(tmp_path / "elsewhere")
    flags = ["--limit", "2", "--seed", "1", "--questions", "2", "--kinds", "detail, reasoning", "--out", "mine"]
    done = run("--images", "coco", "--annotations", str(annotations), "--teacher", "template", *flags)
    assert done.returncode == 0, done.stderr
    assert "pictures 2 (held out 2: the pictures of val2017)" in done.stderr
    assert "instructions 2 (detail 2, reasoning 0)" in done.stderr
    assert "missing pictures 1 (listed in mine/rejected.jsonl)" in done.stderr
    assert done.stderr.splitlines()[-1] == "next: qllava train --stage 1 --data mine/align.json"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--images", "nowhere/"], 2, "error: --images nowhere: no such folder; COCO's layout is coco/train2017/"),
        (
            ["--images", "coco", "--teacher", "gpt-9"],
            2,
            "error: --teacher 'gpt-9' is not known; choose one of: template",
        ),
        (["--images", "coco", "--kinds", "poem"], 2, "error: --kinds 'poem' is not known"),
        (["--images", "coco", "--annotations", "x.json"], 2, "error: --annotations x.json: no such file or folder"),
        (["--images", "coco", "--annotations", "coco/broken.json"], 1, "error: coco/broken.json is not JSON (line 1"),
    ],
)
def test_errors_are_one_line(run: Run, coco: Path, arguments: list[str], code: int, message: str) -> None:
    (coco / "broken.json").write_text("{")
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert errors[0].startswith(message)
    assert "Traceback" not in done.stderr


def test_no_torch_is_imported(tmp_path: Path) -> None:
    code = "import sys, qllava_cli.gen_data, qllava.datagen.pipeline; sys.exit(any(m in sys.modules for m in HEAVY))"
    heavy = "HEAVY = ('torch', 'transformers', 'datasets', 'numpy', 'openai')"
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{CLI}"}
    subprocess.run([sys.executable, "-c", f"{heavy}\n{code}"], cwd=tmp_path, env=env, check=True, timeout=60)


def test_seed_comes_from_the_project_file_unless_given(tmp_path: Path, run: Run, coco: Path) -> None:
    (tmp_path / "qllava.yaml").write_text("recipe: smol\nseed: 7\n")
    for out, flags, seed in (("a", (), 7), ("b", ("--seed", "9"), 9)):
        assert run("--images", str(coco), "--out", out, *flags).returncode == 0
        assert json.loads((tmp_path / out / "card.json").read_text())["seed"] == seed
    (tmp_path / "qllava.yaml").write_text("seed: many\n")
    done = run("--images", str(coco), "--out", "c")
    assert done.returncode == 2
    assert "seed='many' is not a whole number" in done.stderr


def test_a_caption_table_says_what_it_is_good_for(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    words = ("dog", "cat", "kite")
    for n in range(30):
        (tmp_path / "mine" / f"{n}.jpg").write_bytes(b"jpeg")
    lines = ["image,caption", *(f"{n}.jpg,a {words[n % 3]} on a mat" for n in range(30))]
    (tmp_path / "mine" / "captions.csv").write_text("\n".join(lines))
    done = run("--images", "mine", "--target", "5")
    assert done.returncode == 0, done.stderr
    printed = done.stderr.splitlines()
    assert "source caption table (--annotations)" in printed
    assert "captions 5 (one a picture, concepts balanced, at most 5 in all; --target)" in printed
    assert any(line.startswith("rejected 10 (caption not chosen for --target 10; listed in data/") for line in printed)
    assert printed[-2].startswith("no instruction samples: without boxes nothing bears a caption out")
    assert printed[-1] == "next: qllava train --stage 1"


def test_shards_are_written_and_merged(run: Run, coco: Path, tmp_path: Path) -> None:
    for index in ("1", "2"):
        done = run("--images", "coco", "--shard", f"{index}/2", "--out", f"data-{index}")
        assert done.returncode == 0, done.stderr
        assert f"(shard {index}/2; held out" in done.stderr
        assert done.stderr.splitlines()[-1] == "next: the other shards, then qllava data merge data FOLDER..."
    whole = run("--images", "coco", "--out", "whole")
    assert whole.returncode == 0
    from qllava_cli.main import main

    folders = [str(tmp_path / name) for name in ("data", "data-1", "data-2")]
    assert main(["data", "merge", *folders]) == 0
    for name in ("align.json", "instruct.json", "card.json"):
        assert (tmp_path / "data" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_pictures_alone_need_a_teacher_that_sees(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    for n in range(4):
        (tmp_path / "bare" / f"{n}.jpg").write_bytes(b"jpeg")
    done = run("--images", "bare")
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: bare has pictures and neither captions nor boxes (pictures only)" in done.stderr
    assert "--teacher openai --see" in done.stderr


def test_the_project_file_may_name_the_teacher(
    run: Run, coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo's folder: a key in the environment must not send its pictures anywhere."""
    (tmp_path / "qllava.yaml").write_text("recipe: smol\nteacher: template\n")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    done = run("--images", "coco")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("teacher template (qllava.yaml; every answer follows from the annotations; --teacher")
    # A flag goes over the file, and what only a model can do is not ignored.
    dry = run("--images", "coco", "--out", "talk", "--teacher", "openai", "--dry-run")
    assert dry.stderr.startswith("teacher openai (as asked; ")
    assert "--see is for a language model, and the teacher is template" in run("--images", "coco", "--see").stderr
    (tmp_path / "qllava.yaml").write_text("teacher: gpt-9\n")
    done = run("--images", "coco")
    assert done.returncode == 2
    assert "error: qllava.yaml: teacher='gpt-9' is not known; choose one of: template, openai, openai-" in done.stderr
