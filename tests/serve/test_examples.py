import json
from pathlib import Path

import pytest

from qllava.serve.examples import Example, find_examples
from tests.infer.tiny_run import picture


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "pictures").mkdir()
    rows = []
    for index in range(9):
        picture(index * 20).save(tmp_path / "pictures" / f"{index}.png")
        rows += [
            {"id": f"{index}-{kind}", "image": f"{index}.png", "question": f"{kind} {index // 2}?", "answers": ["x"]}
            for kind in ("What", "How")
        ]
    rows.insert(0, {"id": "out", "image": "../secret.png", "question": "out?", "answers": ["x"]})
    rows.insert(0, {"id": "none", "image": None, "question": "none?", "answers": ["x"]})
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "data" / "heldout.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_examples_are_different_pictures_and_questions_inside_the_image_folder(data: Path) -> None:
    named = {"path": str(data / "data" / "instruct.json"), "image_root": str(data / "pictures")}
    root = (data / "pictures").resolve()
    assert find_examples(named) == (
        Example(root / "0.png", "What 0?"),
        Example(root / "1.png", "How 0?"),
        Example(root / "2.png", "What 1?"),
        Example(root / "3.png", "How 1?"),
        Example(root / "4.png", "What 2?"),
        Example(root / "5.png", "How 2?"),
    )
    assert len(find_examples(named, 2)) == 2


def test_without_the_data_there_are_no_examples(data: Path) -> None:
    assert find_examples({}) == ()
    assert find_examples({"path": str(data / "elsewhere" / "x.json"), "image_root": str(data)}) == ()
