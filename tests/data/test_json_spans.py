"""Rows found in a window of the file: the slow twin reads it whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qllava.data import json_spans
from qllava.data.json_spans import line_spans, list_spans
from qllava.errors import DataError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(VALUES, max_size=6),
    indent=st.sampled_from([None, 0, 3]),
    ascii_only=st.booleans(),
    window=st.integers(1, 40),
)
def test_a_window_finds_what_the_whole_file_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[Any], indent: int | None, ascii_only: bool, window: int
) -> None:
    monkeypatch.setattr(json_spans, "_WINDOW", window)
    content = json.dumps(rows, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    path = tmp_path / "a.json"
    path.write_bytes(content)
    found = [content[start:stop] for (start, stop), _ in list_spans(path)]
    assert [json.loads(row.decode("utf-8", "surrogatepass")) for row in found] == rows


@pytest.mark.parametrize("window", [3, 1 << 20])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('[{"a": 1}, {"a"', "is not JSON (Expecting ':' delimiter at line 1)"),
        ('[\n{"a": 1},\n{"a": x}]', "is not JSON (Expecting value at line 3)"),
        ("[1 2]", "is not JSON (no , or ] at line 1)"),
        ("[1,", "is not JSON (no , or ] at line 1)"),
        ('["abc', "is not JSON (Unterminated string starting at at line 1)"),
        ("[" * 100_000, "is not JSON (nested too deeply at line 1)"),
        ("[1]\n[2]", "goes on after the end of its list (line 2); keep one list in a file"),
        (f"[{'9' * 5000}]", "is not JSON (Exceeds the limit (4300 digits)"),
    ],
)
def test_broken_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, problem: str, window: int) -> None:
    monkeypatch.setattr(json_spans, "_WINDOW", window)
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        list(list_spans(path))
    assert str(caught.value).startswith(f"{path} {problem}")


def test_rows_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_spans, "MOST_ROW_BYTES", 1000)
    monkeypatch.setattr(json_spans, "_WINDOW", 64)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(["x" * 900]))
    assert len(list(list_spans(path))) == 1
    path.write_text(f'["{"x" * 5000}')
    with pytest.raises(DataError, match="is not JSON"):
        list(list_spans(path))
    lines = tmp_path / "a.jsonl"
    lines.write_text("1\n" + "x" * 2000)
    with pytest.raises(DataError, match=r"line 2 has more than 1,000 bytes; is it JSONL\?"):
        list(line_spans(lines))


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    content = b'\xef\xbb\xbf{}\r\n\n  \n[1]\n\xff\n"last"'
    path.write_bytes(content)
    assert [content[start:stop] for start, stop in line_spans(path)] == [b"{}", b"[1]", b"\xff", b'"last"']


def test_large_coco_files_are_recognised_by_their_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_spans, "MOST_ROW_BYTES", 100)
    path = tmp_path / "instances.json"
    path.write_text('{"images": [], "annotations": [' + "0," * 1000 + "0]}")
    with pytest.raises(DataError, match="holds COCO annotations, not conversations"):
        list(list_spans(path))
