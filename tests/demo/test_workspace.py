from pathlib import Path

import pytest
import yaml

from qllava.demo.workspace import write_workspace
from qllava.errors import UsageError


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    assert write_workspace(tmp_path / "demo", 7, train=3, heldout=2)
    return tmp_path / "demo"


def test_it_holds_coco_a_picture_and_a_project_file(demo: Path) -> None:
    assert sorted(path.name for path in demo.iterdir()) == [".demo.json", "coco", "image.jpg", "qllava.yaml"]
    assert sorted(path.name for path in (demo / "coco").iterdir()) == ["annotations", "train2017", "val2017"]
    assert len(list((demo / "coco" / "train2017").iterdir())) == 3
    assert len(list((demo / "coco" / "val2017").iterdir())) == 2
    assert yaml.safe_load((demo / "qllava.yaml").read_text()) == {"recipe": "smol", "seed": 7, "teacher": "template"}


def test_an_equal_one_is_left_alone(demo: Path) -> None:
    (demo / "runs").mkdir()
    before = snapshot(demo)
    assert not write_workspace(demo, 7, train=3, heldout=2)
    assert snapshot(demo) == before


def test_the_same_seed_writes_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    write_workspace(tmp_path / "other", 7, train=3, heldout=2)
    assert {k: v[0] for k, v in snapshot(tmp_path / "other").items()} == {k: v[0] for k, v in snapshot(demo).items()}
    write_workspace(tmp_path / "third", 8, train=3, heldout=2)
    assert (tmp_path / "third" / "image.jpg").read_bytes() != (demo / "image.jpg").read_bytes()


def test_one_that_was_broken_off_is_written_again(demo: Path) -> None:
    whole = snapshot(demo)
    (demo / ".demo.json").write_text('{"format": 1, "seed": 7}')
    (demo / "image.jpg").unlink()
    assert write_workspace(demo, 7, train=3, heldout=2)
    assert {k: v[0] for k, v in snapshot(demo).items()} == {k: v[0] for k, v in whole.items()}


def test_another_seed_is_refused(demo: Path) -> None:
    with pytest.raises(UsageError, match=r"demo was rendered with seed=7, not 8; choose another folder with --out"):
        write_workspace(demo, 8, train=3, heldout=2)


@pytest.mark.parametrize("name", ["qllava.yaml", "image.jpg", "coco/annotations/instances_train2017.json"])
def test_changed_files_are_refused_and_kept(demo: Path, name: str) -> None:
    (demo / name).write_text("mine")
    with pytest.raises(UsageError, match=rf"{name} was changed since the demo wrote it"):
        write_workspace(demo, 7, train=3, heldout=2)
    assert (demo / name).read_text() == "mine"
    (demo / name).unlink()
    with pytest.raises(UsageError, match=rf"{name} was removed since"):
        write_workspace(demo, 7, train=3, heldout=2)


def test_a_foreign_folder_is_refused_and_an_empty_one_taken(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert write_workspace(tmp_path / "mine", 7, train=1, heldout=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("other", "file"):
        with pytest.raises(UsageError, match="is no demo folder; choose another with --out"):
            write_workspace(tmp_path / name, 7, train=1, heldout=1)
