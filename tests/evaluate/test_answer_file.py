"""Answers on disk: continued, never mixed, whole after a kill."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qllava.errors import DataError, UsageError
from qllava.evaluate.answer_file import AnswerFile, Heading, read_answers

HEADING = Heading("vqa", "set1", "runs/finetune-001", "d1", "chatml", {"condition": "right", "max_new_tokens": 8})


def test_a_second_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.jsonl"
    with AnswerFile(path, HEADING) as file:
        file.append("1", "red\nand “blue”")
        assert read_answers(path)[1] == {"1": "red\nand “blue”"}  # on disk at once
    with AnswerFile(path, HEADING) as file:
        assert file.answers == {"1": "red\nand “blue”"}
        file.append("2", "")
    assert read_answers(path) == (HEADING, {"1": "red\nand “blue”", "2": ""})
    assert json.loads(path.read_text().splitlines()[0])["qllava_answers"] == 1


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_half_a_line_of_a_killed_run_is_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path, HEADING) as file:
        file.append("1", "red")
        file.append("2", "blue")
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_answers(path)[1] == {"1": "red"}
    with AnswerFile(path, HEADING) as file:
        file.append("2", "green")
    assert read_answers(path)[1] == {"1": "red", "2": "green"}


def test_half_a_heading_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path, HEADING):
        pass
    path.write_bytes(path.read_bytes()[:20])
    with AnswerFile(path, HEADING) as file:
        file.append("1", "red")
    assert read_answers(path) == (HEADING, {"1": "red"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"questions": "set2"},
            r"holds answers of another question set \(set1 there, set2 here\); choose another --out",
        ),
        ({"model_digest": "d2"}, r"another model \(d1 there, d2 here\)"),
        ({"template": "vicuna_v1"}, r"another template \(chatml there, vicuna_v1 here\)"),
        ({"benchmark": "ask"}, r"another benchmark \(vqa there, ask here\)"),
        (
            {"settings": {"condition": "right", "max_new_tokens": 9}},
            r"another setting \(max_new_tokens=8 there, max_new_tokens=9 here\)",
        ),
    ],
)
def test_answers_of_something_else_are_refused_and_left_alone(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path, HEADING) as file:
        file.append("1", "red")
    before = path.read_bytes()
    with pytest.raises(DataError, match=message):
        AnswerFile(path, replace(HEADING, **changes))
    assert path.read_bytes() == before


def test_settings_are_compared_as_json_knows_them(tmp_path: Path) -> None:
    heading = replace(HEADING, settings={"stages": (1, 2)})
    for _ in range(2):
        with AnswerFile(tmp_path / "a.jsonl", heading):
            pass


def test_only_one_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with (
        AnswerFile(path, HEADING),
        pytest.raises(UsageError, match=r"another eval is writing .*answers.jsonl; wait for it"),
    ):
        AnswerFile(path, HEADING)
    with AnswerFile(path, HEADING):
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; run the eval command again"),
        ("my notes\n", "is no answer file of qllava; choose another --out, or move it away"),
        ('{"id": "1"}\n', "is no answer file of qllava"),
        ('{"qllava_answers": 1}\n', "is no answer file of qllava"),
        ('{"qllava_answers": 2}\n', "has answer format 2, this qllava reads 1; update qllava"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        read_answers(path)
    assert message in str(caught.value)
    if content:
        with pytest.raises(DataError):
            AnswerFile(path, HEADING)
        assert path.read_text() == content


def test_a_foreign_file_without_a_line_break_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text("my thesis")
    with pytest.raises(DataError, match="is no answer file of qllava"):
        AnswerFile(path, HEADING)
    assert path.read_text() == "my thesis"


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path, HEADING) as file:
        file.append("1", "red")
    with path.open("a") as more:
        more.write('{"id": 3}\n')
    with pytest.raises(DataError, match=r"answers.jsonl line 3 is no answer; take the line out"):
        read_answers(path)
    with pytest.raises(DataError, match="does not exist; `qllava eval` writes one"):
        read_answers(tmp_path / "none")
