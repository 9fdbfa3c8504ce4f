"""Files that are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from qllava.files import atomic_directory, folder_hashes, write_json


def test_a_failed_block_leaves_nothing_and_keeps_the_old(tmp_path: Path) -> None:
    target = tmp_path / "step-000001"
    with atomic_directory(target) as aside:
        (aside / "a").write_text("old")
    with pytest.raises(RuntimeError, match="disk"), atomic_directory(target) as aside:
        (aside / "a").write_text("new")
        raise RuntimeError("disk")
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    assert (target / "a").read_text() == "old"


def test_a_finished_block_replaces_the_old(tmp_path: Path) -> None:
    target = tmp_path / "step-000001"
    for text in ("old", "new"):
        with atomic_directory(target) as aside:
            (aside / "a").write_text(text)
    assert (target / "a").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "m.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "m.json", {"a": object()})
    assert (tmp_path / "m.json").read_text() == '{\n  "a": 1\n}\n'


def test_hashes_see_every_change(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x00")
    (tmp_path / "b").write_bytes(b"\x00")
    before = folder_hashes(tmp_path, leave_out=("b",))
    (tmp_path / "a").write_bytes(b"\x01")
    assert set(before) == {"a"}
    assert folder_hashes(tmp_path)["a"] != before["a"]
