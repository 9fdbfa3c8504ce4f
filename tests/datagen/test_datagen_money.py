"""Prices, bounds and the journal by themselves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from qllava.datagen.money import Budget, Price, Usage, load_prices, price_of, usage_of
from qllava.datagen.responses import Journal, is_journal
from qllava.datagen.teachers.openai_client import DEFAULT_MODEL
from qllava.errors import UsageError


def test_prices() -> None:
    prices = load_prices(None)
    mini = price_of(DEFAULT_MODEL, prices)
    assert mini is prices["gpt-4.1-mini"]
    assert mini is not None
    assert mini.cost(Usage(1_000_000, 250_000, 100_000)) == pytest.approx(0.75 * 0.4 + 0.25 * 0.1 + 0.16)
    assert mini.cost(Usage(1_000_000), batch=True) == pytest.approx(0.2)
    assert price_of("nobody", prices) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: {input: 1}", "x needs input and output, USD per million tokens"),
        ("x: {input: 1, output: -2}", "x: output is -2; give a number, 0 or more"),
        ("x: {input: 1, output: 2, outptu: 2}", "x has 'outptu'; known are input"),
        ("- 3", "is no mapping; write MODEL"),
        ("x: {input", "is not YAML"),
    ],
)
def test_prices_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_prices(file)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}, Usage(7, 4, 2)),
        ({"prompt_tokens": 7, "completion_tokens": None, "prompt_tokens_details": None}, Usage(7, 0, 0)),
        ({"prompt_tokens": -7, "completion_tokens": True}, Usage()),
        (None, Usage()),
    ],
)
def test_usage(usage: Any, expected: Usage) -> None:
    assert usage_of({"usage": usage}) == expected


def test_a_budget_waits_for_requests_in_flight_before_it_stops() -> None:
    budget = Budget(Price(1.0, 1.0, 1.0), max_cost=2.5, max_requests=None, spent=0.5)
    bound = budget.bound(500_000, 500_000, 0)
    assert bound == pytest.approx(1.0)
    assert [budget.take(bound) for _ in range(3)] == ["go", "go", "wait"]
    budget.settle(bound, Usage(100_000, 0, 100_000))
    assert budget.spent == pytest.approx(0.7)
    assert budget.take(bound) == "wait"
    budget.fail(bound, perhaps_billed=False)
    assert budget.take(bound) == "go"
    budget.fail(bound, perhaps_billed=True)
    assert (budget.perhaps, budget.held) == (pytest.approx(1.0), 0.0)
    assert budget.take(bound) == "stop"
    assert budget.reached == "--max-cost 2.5"


def record(number: int) -> dict[str, Any]:
    return {"key": f"{number:032x}", "teacher": "openai", "model": "m", "response": {"usage": {"prompt_tokens": 5}},
            "text": "é" * number}  # fmt: skip


def test_a_journal_keeps_what_many_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"

    async def write(journal: Journal) -> None:
        await asyncio.gather(*(journal.append(record(number)) for number in range(200)))

    with Journal(path) as journal:
        asyncio.run(write(journal))
        journal.extend([record(20_000)])
        assert len(journal) == 201
    assert is_journal(path)
    with Journal(path) as journal:
        assert all(journal.read(record(number)["key"]) == record(number) for number in (*range(200), 20_000))
        assert journal.read(f"{999:032x}") is None
        assert journal.paid == {("openai", "m"): Usage(1005)}
        assert f"{7:032x}" in journal


@pytest.mark.parametrize("kept", [0, 10, 49, 60, 190])
def test_a_journal_is_mended_wherever_it_was_torn(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "responses.jsonl"
    with Journal(path) as journal:
        journal.extend([record(1), record(2)])
    whole = path.read_bytes()
    path.write_bytes(whole[:kept] + (b"\0" * 30 if kept == 190 else b""))
    with Journal(path) as journal:
        missing = [number for number in (1, 2) if record(number)["key"] not in journal]
        assert missing
        journal.extend([record(number) for number in missing])
    assert path.read_bytes() == whole


def test_a_journal_that_cannot_be_written_leaves_no_torn_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    path = tmp_path / "responses.jsonl"

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with Journal(path) as journal:
        journal.extend([record(1)])
        size = path.stat().st_size
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space left"):
                asyncio.run(journal.append(record(2)))
        assert path.stat().st_size == size
        assert record(2)["key"] not in journal


def test_the_template_teachers_file_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    path.write_text('{"id": "a", "teacher": "template"}\n')
    assert not is_journal(path)
    with pytest.raises(UsageError, match="is not of a language-model teacher"), Journal(path):
        pass
