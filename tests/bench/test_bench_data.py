"""The synthetic data has the lengths and the sharing that LLaVA's has, and is the same everywhere."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from qllava.bench.data import KINDS, SAMPLES_A_PICTURE, _captions, _instructions, write_data
from qllava.data.formats import load_conversations
from qllava.data.images import open_image


def words(row: dict[str, list[dict[str, str]]], who: str) -> int:
    return sum(len(turn["value"].split()) for turn in row["conversations"] if turn["from"] == who)


def test_the_papers_mix() -> None:
    rows = _instructions(np.random.default_rng(0), 4000, longest=1200)
    kinds = Counter(row["kind"] for row in rows)
    for kind, share in KINDS.items():
        assert kinds[kind] / 4000 == pytest.approx(share / sum(KINDS.values()), abs=0.02)
    pictures = Counter(row["image"] for row in rows)
    assert len(rows) / len(pictures) == pytest.approx(SAMPLES_A_PICTURE, rel=0.01)
    assert max(pictures.values()) <= 3
    answers = np.array([words(row, "gpt") for row in rows])
    assert answers.mean() == pytest.approx(215, rel=0.03)
    assert np.log(answers).std() == pytest.approx(0.45, abs=0.08)
    assert {len(row["conversations"]) for row in rows if row["kind"] == "conversation"} == {8}


def test_nothing_is_longer_than_asked() -> None:
    rows = _instructions(np.random.default_rng(0), 500, longest=300)
    assert 250 < max(words(row, "gpt") + words(row, "human") for row in rows) <= 300


def test_captions_are_one_a_picture() -> None:
    rows = _captions(np.random.default_rng(0), 1000)
    assert len({row["image"] for row in rows}) == 1000
    assert np.mean([words(row, "gpt") for row in rows]) == pytest.approx(18, rel=0.05)


def test_it_is_written_as_the_reader_takes_it_and_always_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_data(tmp_path / name, stage="finetune", samples=12)
    first, second = ((tmp_path / name / "instruct.json").read_text() for name in ("a", "b"))
    assert first == second
    table = load_conversations(tmp_path / "a" / "instruct.json")
    assert len(table) == 12
    for conversation in table:
        assert open_image(tmp_path / "a" / "pictures" / conversation.images[0]).size == (320, 240)
    assert len(json.loads(first)) == 12
