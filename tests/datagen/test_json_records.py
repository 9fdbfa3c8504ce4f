"""JSON lists and lines, object by object: the same objects however the file is cut into chunks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qllava.datagen import json_records as module
from qllava.datagen.json_records import first_json_record, json_records
from qllava.errors import DataError

VALUES = st.dictionaries(
    st.text(max_size=4), st.integers() | st.text(max_size=9) | st.lists(st.floats(0, 1), max_size=2)
)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    records=st.lists(VALUES, max_size=6), indent=st.sampled_from([None, 1]), chunk=st.integers(1, 9), bom=st.booleans()
)
def test_any_chunk_size_gives_what_json_gives(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]], indent: int | None, chunk: int, bom: bool
) -> None:
    path = tmp_path_factory.mktemp("json") / "list.json"
    text = json.dumps(records, indent=indent, ensure_ascii=False)
    path.write_text(f"\ufeff{text}" if bom else text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        assert [record for _, record in json_records(path)] == records
    lines = path.with_suffix(".jsonl")
    lines.write_text("".join(f"{json.dumps(record)}\n\n" for record in records))
    assert [record for _, record in json_records(lines)] == records


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, {"b": ]', "entry 2 is not JSON"),
        ('[{"a": 1}', "entry 2 is not JSON .the file ends inside the list"),
        ('[{"a": 1},', "entry 2 is not JSON .the file ends inside the list"),
        ('[{"a": 1} {"a": 2}]', "entry 2 is not JSON .no comma"),
        ('[{"a": 1},]', "entry 2 is not JSON"),
        ("[]]", "more text follows the end"),
        ("[3]", "entry 1 is '3', not an object"),
        ('{"a": 1}', "is not a JSON list; it begins with"),
        ("", "is not a JSON list"),
    ],
)
def test_broken_lists_say_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        list(json_records(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_broken_lines_say_which(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2 is not JSON"):
        list(json_records(path))
    assert first_json_record(path) == {"a": 1}
    path.write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(DataError, match="not text in UTF-8"):
        list(json_records(path))
    assert first_json_record(path) is None
    with pytest.raises(DataError, match="cannot be read: No such file"):
        list(json_records(tmp_path / "none.json"))
