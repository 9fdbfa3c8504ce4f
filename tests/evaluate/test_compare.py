"""Two score files side by side: by hand, with ties, and refused where they are not of the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from qllava.errors import DataError
from qllava.evaluate.answer_file import Heading
from qllava.evaluate.compare import compare
from qllava.evaluate.score_file import QuestionScore, ScoreSheet, read_scores, write_scores

HEADING = Heading("vqa", "set1", "runs/finetune-001", "d1", "chatml", {"condition": "right"})


def sheet(scores: Sequence[float], *, kinds: str = "", start: int = 0) -> ScoreSheet:
    rows = (
        QuestionScore(str(start + n), score, f"{n}.jpg", kinds[n] if kinds else "") for n, score in enumerate(scores)
    )
    return ScoreSheet(HEADING, "exact match", tuple(rows))


def test_by_hand() -> None:
    found = compare(sheet([1, 0, 0, 1], kinds="aabb"), sheet([1, 1, 1, 0.5], kinds="aabb"))
    assert (found.a, found.b, found.difference.value) == (0.5, 0.875, 0.375)
    assert (found.better, found.worse, found.same) == (2, 1, 1)
    assert {kind: (a, b, d.value) for kind, (a, b, d) in found.by_kind.items()} == {
        "a": (0.5, 1.0, 0.5),
        "b": (0.5, 0.75, 0.25),
    }
    assert found.sentence().startswith("no difference is shown: B scores +0.375 (")
    assert found.to_dict()["questions"] == {"better": 2, "worse": 1, "same": 1}


def test_order_of_the_rows_does_not_matter() -> None:
    a, b = sheet([1, 0, 1, 1]), sheet([0, 1, 1, 1])
    assert compare(a, replace(b, rows=b.rows[::-1])) == compare(a, b)


def test_ties_alone_are_no_difference() -> None:
    found = compare(sheet([1, 0, 1]), sheet([1, 0, 1]))
    assert (found.difference.value, found.difference.p, found.same) == (0.0, 1.0, 3)


@pytest.mark.parametrize(("b", "word"), [([1.0] * 20, "better"), ([-1.0] * 20, "worse")])
def test_a_sure_difference_is_said(b: list[float], word: str) -> None:
    assert compare(sheet([0.0] * 20), sheet(b)).sentence().startswith(f"B is {word} than A: ")


def test_other_questions_are_refused() -> None:
    a = sheet([1, 0, 1])
    other = replace(a, heading=replace(HEADING, questions="set2"))
    with pytest.raises(DataError, match=r"not of the same question set \(set1 and set2\)"):
        compare(a, other)
    with pytest.raises(DataError, match=r"not of the same metric \(exact match and vqa accuracy\)"):
        compare(a, replace(a, metric="vqa accuracy"))
    with pytest.raises(DataError, match=r"not of the same benchmark"):
        compare(a, replace(a, heading=replace(HEADING, benchmark="scienceqa")))
    with pytest.raises(DataError, match=r"A scores 3 questions and B 2, 1 of them in one alone \(first: id '2'\)"):
        compare(a, sheet([1, 0]))


def test_files_come_back(tmp_path: Path) -> None:
    written = sheet([1, 0.5], kinds="ab")
    write_scores(tmp_path / "deep" / "scores.jsonl", written)
    assert read_scores(tmp_path / "deep" / "scores.jsonl") == written
    assert read_scores(tmp_path / "deep") == written
    assert read_scores(tmp_path / "deep" / "answers.jsonl") == written


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (None, "does not exist; an eval command writes it"),
        ("", "is empty; run the eval command again"),
        ("notes\n", "is no score file of qllava"),
        ("HEAD\n", "holds no score"),
        ("HEAD\n{}\n", "line 2 is no score"),
        ('HEAD\n{"id": "1", "score": 1}\n{"id": "1", "score": 0}\n', "line 3: id '1' is scored twice"),
        ('{"qllava_scores": 9}\n', "has another score format"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path: Path, lines: str | None, message: str) -> None:
    path = tmp_path / "scores.jsonl"
    write_scores(path, sheet([1]))
    head = path.read_text().splitlines()[0]
    if lines is None:
        path.unlink()
    else:
        path.write_text(lines.replace("HEAD", head))
    with pytest.raises(DataError) as caught:
        read_scores(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
