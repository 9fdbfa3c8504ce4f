"""The page of answers: its data, and once in a real browser where there is one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from qllava.report.answers import AnsweredQuestion, write_answers
from tests.report.test_gallery import ATTACK, CHROMIUM, dumped, scripts

ROWS = [
    AnsweredQuestion("a.jpg", "What color?", ("red",), ("red", "red", "crimson"), "color", right=True),
    AnsweredQuestion("b.jpg", "How many?", ("",), ("two",), "count", right=False),
    AnsweredQuestion("a.jpg", "How many?", (ATTACK,), ("two",), "count", right=False),
    AnsweredQuestion(None, "Why?", ("so",), ("so",), "", right=True),
]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    Image.new("RGB", (640, 480), "navy").save(tmp_path / "a.jpg")
    return tmp_path


def test_right_and_wrong_answers_are_told_apart(pictures: Path) -> None:
    report = write_answers(pictures / "deep" / "r.html", ROWS, image_root=pictures, title="run: set", models=["run"])
    assert (report.pictures, report.of_pictures, report.unreadable) == (3, 3, 1)
    data = scripts(report.out.read_text())
    index = data["index-0"]
    assert index["reasons"] == ["wrong answer", "no answer"]
    assert index["kinds"] == ["color", "count", ""]
    assert [[code // 100_000 for code in codes] for codes in index["codes"]] == [[0, 1], [2], [0]]
    assert index["words"] == {"page": "answers", "entries": "answers", "good": "right", "bad": "wrong", "who": "run"}
    first, second, third = data["pictures-0"]
    assert [picture["image"] for picture in (first, second, third)] == ["a.jpg", "b.jpg", ""]
    assert first["samples"][0] == {"turns": [["What color?", "red"]]}
    assert second["samples"][0] == {"turns": [["How many?", ""]], "detail": "accepted: two"}


def test_it_is_one_file_that_fetches_nothing_and_runs_no_answer(pictures: Path) -> None:
    out = write_answers(pictures / "r.html", ROWS, image_root=pictures, title="t", models=["m"]).out
    text = out.read_text()
    assert "<script>document" not in text
    assert not re.search(r"https?://|@import|url\(", text)
    assert sorted(path.name for path in pictures.iterdir()) == ["a.jpg", "r.html"]


def test_models_stand_in_columns(pictures: Path) -> None:
    rows = [AnsweredQuestion("a.jpg", "What?", ("a dog", "a cat"))]
    data = scripts(
        write_answers(pictures / "r.html", rows, image_root=pictures, title="t", models=["A", "B"]).out.read_text()
    )
    assert data["index-0"]["columns"] == ["A", "B"]
    assert data["index-0"]["words"]["bad"] == ""
    assert data["pictures-0"][0]["samples"] == [{"turns": [["What?", ""]], "columns": ["a dog", "a cat"]}]
    assert "a cat" in data["texts-0"][0][1]


def test_of_many_pictures_some_are_shown_and_it_says_so(pictures: Path) -> None:
    rows = [AnsweredQuestion(f"{n}.jpg", "?", ("x",), ("x",), right=True) for n in range(60)]
    report = write_answers(pictures / "r.html", rows, image_root=pictures, title="t", models=["m"], limit=55)
    assert (report.pictures, report.of_pictures) == (55, 60)
    data = scripts(report.out.read_text())
    assert data["index-0"]["of"] == 60
    assert [len(data[f"pictures-{n}"]) for n in (0, 1)] == [50, 5]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_in_a_real_browser(tmp_path: Path, pictures: Path) -> None:
    page = write_answers(pictures / "r.html", ROWS, image_root=pictures, title="run", models=["run-1"]).out
    text = dumped(page, tmp_path / "profile")
    assert "<title>run · answers</title>" in text
    assert "3 pictures, 2 answers right, 2 wrong, run-1" in text
    assert "accepted: two" in text
    text = dumped(page, tmp_path / "profile", "#status=wrong&kind=count")
    assert len(re.findall("<article>", text)) == 2
    assert 'class="question">What color?' not in text
    rows = [AnsweredQuestion("a.jpg", "What?", ("a dog", ""))]
    page = write_answers(pictures / "c.html", rows, image_root=pictures, title="t", models=["one", "two"]).out
    text = dumped(page, tmp_path / "profile")
    assert "1 pictures, 1 questions, 2 models" in text
    assert text.count('class="column"') == 2
    assert "(no answer)" in text


def test_the_data_are_json_of_ascii(pictures: Path) -> None:
    out = write_answers(
        pictures / "r.html",
        [AnsweredQuestion(None, "Où?", ("“là”</script>",))],
        image_root=pictures,
        title="t",
        models=["m"],
    ).out
    found = scripts(out.read_text())["pictures-0"]
    assert json.dumps(found[0]["samples"]) == json.dumps([{"turns": [["Où?", "“là”</script>"]]}])
