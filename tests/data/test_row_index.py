"""A data file is checked once: the second opening reads the index, and answers the same."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from qllava.data import formats, row_index
from qllava.data.audit import _picture_groups
from qllava.data.formats import ConversationTable, load_conversations
from qllava.errors import DataError


def row(number: int, image: str | None) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": f"Thing {number} é 猫"}]
    return {"id": str(number), "conversations": turns} | ({"image": image} if image else {})


IMAGES = ["a.jpg", "b.jpg", None, "a.jpg", "ü.jpg", None, "b.jpg", "ü.jpg"]


@pytest.fixture(params=["data.json", "data.jsonl"])
def file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(row_index, "cache_root", lambda: tmp_path / "cache")
    path = tmp_path / request.param
    rows = [row(number, image) for number, image in enumerate(IMAGES)]
    # One name spelt in two ways: raw, and escaped as ASCII.
    written = [json.dumps(r, ensure_ascii=number == 7) for number, r in enumerate(rows)]
    path.write_text("\n".join(written) if path.suffix == ".jsonl" else "[" + ",\n".join(written) + "]")
    return path


def no_checking(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the file was checked again")

    monkeypatch.setattr(formats, "_spans", refuse)


def test_the_second_opening_checks_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(load_conversations(file))
    no_checking(monkeypatch)
    again = load_conversations(file)
    assert list(again) == first
    # The name and the time do not count, the contents do.
    moved = file.with_name(f"moved{file.suffix}")
    file.rename(moved)
    os.utime(moved, (1, 1))
    assert len(load_conversations(moved)) == len(IMAGES)
    moved.write_text(moved.read_text().replace("Thing 3", "Thing 9"))
    with pytest.raises(AssertionError, match="checked again"):
        load_conversations(moved)


def test_groups_are_those_of_decoding_every_row(file: Path) -> None:
    table = load_conversations(file)
    slow = list(_picture_groups([table[i] for i in range(len(table))], ()))  # a list does not know
    fast = list(_picture_groups(table, ()))
    assert slow == [(image,) if image else None for image in IMAGES]
    assert fast == [0, 1, None, 0, 2, None, 1, 2]
    for opened in (table, load_conversations(file)):  # as it was read, and as it was kept
        assert list(opened.pictures()) == ["a.jpg", "b.jpg", "ü.jpg"]


def test_a_bad_file_is_told_every_time_and_keeps_nothing(file: Path, tmp_path: Path) -> None:
    file.write_text(file.read_text().replace('"human"', '"humn"', 1))
    for _ in range(2):
        with pytest.raises(DataError, match="unknown `from` 'humn'"):
            load_conversations(file)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("damage", [b"", b"x", b"\x93NUMPY\x01\x00"])
def test_a_damaged_index_is_made_again(file: Path, tmp_path: Path, damage: bytes) -> None:
    expected = list(load_conversations(file))
    (kept,) = (tmp_path / "cache" / "rows").glob("*.npy")
    whole = kept.read_bytes()
    kept.write_bytes(damage)
    assert list(load_conversations(file)) == expected
    assert kept.read_bytes() == whole


def test_other_rules_check_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_conversations(file)
    monkeypatch.setattr(row_index, "_rules", lambda: "other")
    no_checking(monkeypatch)
    with pytest.raises(AssertionError, match="checked again"):
        load_conversations(file)


def test_a_cache_that_cannot_be_written_is_no_error(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    table: ConversationTable = load_conversations(file)
    assert len(table) == len(IMAGES)
