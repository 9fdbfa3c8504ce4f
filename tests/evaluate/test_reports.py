"""The pages of ScienceQA and LLaVA-Bench: every question with what is right, what was said, and how it was scored."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from qllava.evaluate.judge.bench import read_bench
from qllava.evaluate.judge.report import write_judge_report
from qllava.evaluate.judge.run import Judged, Judgement
from qllava.evaluate.judge.verdict import failed, parse_verdict
from qllava.evaluate.science_qa.problems import read_science_qa
from qllava.evaluate.science_qa.report import MOST_WITHOUT_PICTURE, write_science_report
from tests.evaluate.bench_folder import write_wild
from tests.evaluate.science_qa_folder import problem, write_science_qa


def part(page: Path, name: str) -> Any:
    """One of the values that the page is made of."""
    found = re.search(rf'gallery\("{name}",0,(.*)\);\n', page.read_text())
    assert found
    return json.loads(found[1])


def test_scienceqa_shows_what_was_right(tmp_path: Path) -> None:
    science = read_science_qa(write_science_qa(tmp_path / "sqa"), "test")
    given = {"1": "The answer is A.", "2": "The answer is A.", "3": "who knows"}
    report = write_science_report(
        tmp_path / "page.html", science.problems, given, image_root=science.image_root, model="mine"
    )
    assert (report.pictures, report.unreadable) == (3, 0)  # two, and the place of those without
    shown = {
        row["turns"][0][0].splitlines()[0]: row for entry in part(report.out, "pictures") for row in entry["samples"]
    }
    assert "Look at the map." in shown
    right, wrong = shown["Look at the map."], shown["It lays eggs."]
    assert right["turns"][0][0].splitlines()[1:3] == ["Which of these states is farthest north?", "(A) West Virginia"]
    assert right["turns"][0][1] == "The answer is A."
    assert "detail" not in right
    assert wrong["detail"] == "accepted: (B) no"
    assert part(report.out, "index")["reasons"] == ["wrong answer", "no answer"]


def test_of_many_problems_without_picture_some_are_shown(tmp_path: Path) -> None:
    problems = {str(n): problem(question=f"Number {n}?") for n in range(3 * MOST_WITHOUT_PICTURE)}
    science = read_science_qa(write_science_qa(tmp_path / "sqa", problems), "test")
    report = write_science_report(tmp_path / "page.html", science.problems, {}, image_root=tmp_path, model="mine")
    (entry,) = part(report.out, "pictures")
    assert len(entry["samples"]) == MOST_WITHOUT_PICTURE
    assert part(report.out, "index")["title"] == "mine: ScienceQA (200 of 600 problems without a picture)"


def test_llava_bench_shows_both_answers_with_their_mean_scores(tmp_path: Path) -> None:
    bench = read_bench(write_wild(tmp_path / "bench", 3))
    first, second, third = bench.items
    verdicts = [
        (first, "reference first", parse_verdict("8 7")),
        (first, "candidate first", parse_verdict("6 9")),
        (second, "reference first", failed("unparsable")),
    ]
    judgements = tuple(Judgement(i.id, i.category, order, 0, verdict, "") for i, order, verdict in verdicts)  # type: ignore[arg-type]
    judged = Judged("tiny", None, "rules", judgements, (third.id,), {}, {}, ())
    report = write_judge_report(tmp_path / "page.html", bench, {first.id: "mine 1", second.id: "mine 2"}, judged, "m")
    rows = [row for entry in part(report.out, "pictures") for row in entry["samples"]]
    assert [row["columns"] for row in rows] == [
        [f"8.5 of 10\n{first.reference}", "6.5 of 10\nmine 1"],
        [f"not judged\n{second.reference}", "not judged\nmine 2"],
    ]
    assert part(report.out, "index")["columns"] == ["reference", "m"]
    assert report.unreadable == 0


def test_answers_are_judged_without_the_pictures(tmp_path: Path) -> None:
    bench = read_bench(write_wild(tmp_path / "bench", 2))
    for path in bench.image_root.iterdir():
        path.unlink()
    judged = Judged("tiny", None, "rules", (), (), {}, {}, ())
    report = write_judge_report(tmp_path / "page.html", bench, {bench.items[0].id: "mine"}, judged, "m")
    assert (report.pictures, report.unreadable) == (1, 1)
