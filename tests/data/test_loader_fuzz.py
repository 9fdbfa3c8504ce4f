"""Ten thousand data files that nobody meant: a table, a rejected row or one clear line; never a traceback or a hang."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from qllava.data.check import check_data
from qllava.data.encode import ChatEncoder
from qllava.data.formats import load_conversations
from qllava.errors import DataError
from tests.data.golden import build_encoder
from tests.data.tiny_tokenizers import byte_level

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
TEXT = st.text(max_size=12) | st.sampled_from(["<image>", "<image>\nhi", "<|im_end|>", "\ud800", "\x00", "../../x", ""])
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
ANY = st.recursive(SCALAR, lambda x: st.lists(x, max_size=3) | st.dictionaries(TEXT, x, max_size=3), max_leaves=5)
TURN = st.fixed_dictionaries(
    {"from": st.sampled_from(["human", "gpt", "system"]) | ANY, "value": TEXT | ANY}
) | st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system"]) | ANY,
        "content": TEXT
        | ANY
        | st.lists(st.fixed_dictionaries({"type": st.sampled_from(["text", "image"]) | ANY, "text": TEXT}), max_size=3),
    }
)
ROW = ANY | st.fixed_dictionaries(
    {},
    optional={
        "id": ANY,
        "image": TEXT | ANY,
        "images": st.lists(TEXT, max_size=3) | ANY,
        "conversations": st.lists(TURN, max_size=4) | ANY,
        "messages": st.lists(TURN, max_size=4) | ANY,
        "kind": ANY,
    },
)


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    """(suffix, content): rows well formed or not, as a list or lines, then perhaps damaged byte by byte."""
    suffix = draw(st.sampled_from([".json", ".jsonl"]))
    if draw(st.integers(0, 9)) == 0:
        return suffix, draw(st.binary(max_size=200))
    rows = [json.dumps(row, ensure_ascii=draw(st.booleans())) for row in draw(st.lists(ROW, max_size=4))]
    text = "\n".join(rows) if suffix == ".jsonl" else f"[{','.join(rows)}]"
    content = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        match draw(st.sampled_from(["cut", "insert", "change", "repeat"])):
            case "cut":
                del content[at : at + draw(st.integers(1, 20))]
            case "insert":
                content[at:at] = draw(st.binary(min_size=1, max_size=5))
            case "change":
                content[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case _:
                content[at:at] = content[at : at + 10] * draw(st.integers(1, 50))
    return suffix, bytes(content)


@pytest.fixture(scope="module")
def encoder() -> ChatEncoder:
    return build_encoder(byte_level(), "chatml")


def load(folder: Path, suffix: str, content: bytes, encoder: ChatEncoder) -> None:
    path = folder / f"fuzzed{suffix}"
    path.write_bytes(content)
    refused: str | None = None
    try:
        strict = load_conversations(path)
    except DataError as error:
        refused = str(error)
        assert refused.encode()
        assert "\n" not in refused
        assert len(refused) < 2000
    try:
        table = load_conversations(path, strict=False)
    except DataError as error:
        assert str(error) == refused
        return
    findings = check_data(table, encoder, image_root=folder, max_length=64, needs_image=False)
    rows = {finding.row for finding in findings.bad}
    assert findings.rows == len(table)
    assert json.loads(json.dumps(findings.to_dict()))
    if refused is None:
        assert [c.id for c in strict] == [table[row].id for row in range(len(table))]
    for row in set(range(len(table))) - rows:
        encoder.encode(table[row], 64)


@settings(max_examples=300, deadline=5000, suppress_health_check=QUIET, derandomize=True, database=None)
@given(file=files())
def test_three_hundred_files(tmp_path: Path, encoder: ChatEncoder, file: tuple[str, bytes]) -> None:
    load(tmp_path, *file, encoder)


@pytest.mark.slow
@settings(
    max_examples=10_000,
    deadline=5000,
    suppress_health_check=QUIET,
    database=None,
    phases=[Phase.generate, Phase.shrink],
)
@given(file=files())
def test_ten_thousand_files(tmp_path: Path, encoder: ChatEncoder, file: tuple[str, bytes]) -> None:
    load(tmp_path, *file, encoder)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"[" + b"9" * 1_000_000 + b"]",
        b"[" + b" " * 3_000_000,
        b'["' + b"\\" * 1_000_001,
        b"\x00" * 1000,
        "[]".encode("utf-16"),
        b"[1e999999]",
        b'[{"id": ' + b"[" * 900 + b"]" * 900 + b"}]",
    ],
)
def test_files_made_to_hurt(tmp_path: Path, encoder: ChatEncoder, suffix: str, content: bytes) -> None:
    load(tmp_path, suffix, content, encoder)


def load_rows(folder: Path, rows: list[Any]) -> None:
    (folder / "a.json").write_text(json.dumps(rows))


def test_half_characters_are_refused_by_name(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "a \ud83d b"}, {"from": "gpt", "value": "x"}]
    load_rows(tmp_path, [{"id": "r", "conversations": turns}])
    with pytest.raises(DataError, match=r"row 0 \(id r\) holds half a character \('\\ud83d'\); write the text again"):
        load_conversations(tmp_path / "a.json")
