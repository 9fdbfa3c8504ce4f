import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest

from qllava.data.formats import load_conversations
from qllava.errors import DataError, UsageError
from qllava.evaluate.exact_match import Score
from qllava.evaluate.science_qa.convert import convert
from qllava.evaluate.science_qa.extract import Chosen, extract_choice
from qllava.evaluate.science_qa.problems import read_science_qa
from qllava.evaluate.science_qa.prompts import answer_text, parse_format, question_text
from qllava.evaluate.science_qa.score import COLUMNS, choose_all, score_answers, score_choices
from qllava.evaluate.science_qa.table import published, table
from tests.evaluate.science_qa_folder import PROBLEMS, many_problems, problem, write_science_qa


def test_the_published_layout_is_read(tmp_path: Path) -> None:
    science = read_science_qa(write_science_qa(tmp_path), "test")
    assert [p.id for p in science.problems] == ["1", "2", "3", "4", "5"]
    first = science.problems[0]
    assert (first.image, first.grade, first.letters, first.answer) == ("test/1/image.png", 2, "ABCD", 0)
    assert (science.image_root / "test/1/image.png").is_file()
    nested = write_science_qa(tmp_path / "repository" / "data" / "scienceqa")
    assert len(read_science_qa(nested.parent.parent, "test").problems) == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"choices": ["one"]}, "problem 9: choices=['one']; give a list of 2 to 8 texts"),
        ({"answer": 4}, "problem 9: answer=4 is no index of its 4 choices"),
        ({"answer": None}, "problem 9: answer=None is no index of its 4 choices"),
        ({"subject": "art"}, "problem 9: subject='art'; known are natural science"),
        ({"grade": "grade13"}, "problem 9: grade='grade13'; write grade1 to grade12"),
        ({"question": " "}, "problem 9: question=' '; give a text"),
        ({"image": 3}, "problem 9: image=3 is no file name; give one, or null"),
    ],
)
def test_a_problem_out_of_schema_is_one_clear_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write_science_qa(tmp_path, {"9": problem(**change)}, pictures=False)
    with pytest.raises(DataError, match=re.escape(said)):
        read_science_qa(tmp_path, "test")


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"problems.json does not exist; get it from lupantech/ScienceQA"):
        read_science_qa(tmp_path, "test")
    write_science_qa(tmp_path)
    with pytest.raises(UsageError, match=r"--split dev is not in .*pid_splits.json; it holds train, val, test"):
        read_science_qa(tmp_path, "dev")
    with pytest.raises(DataError, match=r"train lists no problem"):
        read_science_qa(tmp_path, "train")
    (tmp_path / "pid_splits.json").write_text('{"test": ["1", "77"], "val": ["1", "1"]}')
    with pytest.raises(DataError, match=r"1 problems of test are not in .*problems.json \(first: 77\)"):
        read_science_qa(tmp_path, "test")
    with pytest.raises(DataError, match=r"val lists problem 1 twice; ids must differ"):
        read_science_qa(tmp_path, "val")
    (tmp_path / "problems.json").write_text("")
    with pytest.raises(DataError, match=r"problems.json is not readable JSON"):
        read_science_qa(tmp_path, "test")


def test_questions_and_answers_of_each_format(tmp_path: Path) -> None:
    first, second, *_ = read_science_qa(write_science_qa(tmp_path), "test").problems
    options = "Options: (A) West Virginia (B) Louisiana (C) Arizona (D) Oklahoma"
    asked = f"Which of these states is farthest north?\nContext: Look at the map.\n{options}"
    assert question_text(first, "qcm-lea") == question_text(first, "qcm-lepa") == asked
    assert question_text(first, "cqm-a") == (
        "Context: Look at the map.\nWhich of these states is farthest north?\n"
        "A. West Virginia\nB. Louisiana\nC. Arizona\nD. Oklahoma\n"
        "Answer with the option's letter from the given choices directly."
    )
    lecture, solution = "Maps have four cardinal directions.", "West Virginia is farthest north."
    assert answer_text(first, "qcm-lea") == f"{lecture} {solution} The answer is A."
    assert answer_text(first, "qcm-lepa") == f"LECTURE: {lecture}\nSOLUTION: {solution}\n###\nANSWER: A."
    assert answer_text(first, "cqm-a") == "A"
    assert answer_text(second, "cqm-a") == "B"


def test_what_is_empty_leaves_no_trace(tmp_path: Path) -> None:
    entry = problem(lecture="", solution=" ", question="Two  spaces?")
    bare = read_science_qa(write_science_qa(tmp_path, {"1": entry}), "test").problems[0]
    assert question_text(bare, "qcm-lea").startswith("Two spaces?\nContext: N/A\n")
    assert question_text(bare, "cqm-a").startswith("Two spaces?\nA. West Virginia\n")
    assert answer_text(bare, "qcm-lea") == "The answer is A."
    assert answer_text(bare, "qcm-lepa") == "###\nANSWER: A."


def test_formats_by_name() -> None:
    assert parse_format("QCM-LEPA") == "qcm-lepa"
    with pytest.raises(UsageError, match="--format qcm is not known; take qcm-lea, qcm-lepa, cqm-a"):
        parse_format("qcm")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("B", 1),
        ("(B)", 1),
        (" B. ", 1),
        ("C. Arizona", 2),
        ("C: Arizona", 2),
        ("(C) Arizona", 2),
        ("Maps have four directions. The answer is B.", 1),
        ("The answer is B", 1),
        ("the correct answer is (B), since it is so", 1),
        ("The answer is: C", 2),
        ("The answer is option C.", 2),
        ("LECTURE: x\nSOLUTION: y\n###\nANSWER: B.", 1),
        ("A. A map shows it. The answer is B.", 1),
        ("The answer is B. I repeat: the answer is B.", 1),
        ("Answer: A", 0),
        (None, "unanswered"),
        ("", "no letter"),
        ("Because it is a mammal.", "no letter"),
        ("The answer is A map of the world.", 0),
        ("The answer is A bear which eats", 0),
        ("A bear eats fish.", "no letter"),
        ("Answer a question.", "no letter"),
        ("The answer is B. No, the answer is C.", "several letters"),
        ("E", "no such choice"),
        ("The answer is H.", "no such choice"),
        ("b", "no letter"),
    ],
)
def test_which_choice_an_answer_names(answer: str | None, expected: int | str) -> None:
    wanted = Chosen(expected) if isinstance(expected, int) else Chosen(None, expected)  # type: ignore[arg-type]
    if answer in ("The answer is A map of the world.", "The answer is A bear which eats"):
        wanted = Chosen(None, "no letter")  # an article
    assert extract_choice(answer, 4) == wanted


def test_every_column_by_hand(tmp_path: Path) -> None:
    problems = read_science_qa(write_science_qa(tmp_path), "test").problems
    # 1 right; 2 wrong; 3 right; 4 not answered; 5 unreadable.
    answers = {"1": "The answer is A.", "2": "The answer is A.", "3": "C", "5": "I do not know"}
    scores = score_answers(answers, problems)
    assert dict(scores.columns) == {
        "NAT": Score(1, 2),  # 2, 3
        "SOC": Score(1, 1),  # 1
        "LAN": Score(0, 2),  # 4, 5
        "TXT": Score(1, 2),  # 1, 2: hints
        "IMG": Score(2, 2),  # 1, 3; 1 has both
        "NO": Score(0, 2),  # 4, 5
        "G1-6": Score(1, 3),  # 1, 2, 5
        "G7-12": Score(1, 2),  # 3, 4
        "Avg": Score(2, 5),
    }
    assert dict(scores.failures) == {"unanswered": 1, "no letter": 1, "several letters": 0, "no such choice": 0}
    assert scores.failed == 2
    shown = scores.to_dict()
    assert (shown["columns"]["Avg"]["accuracy"], shown["failed"]) == (0.4, 2)


def test_nothing_answered_and_no_problem_of_a_column(tmp_path: Path) -> None:
    problems = read_science_qa(write_science_qa(tmp_path, {"1": problem()}), "test").problems
    scores = score_answers({}, problems)
    assert scores.columns["IMG"] == Score(0, 0)
    assert scores.failures["unanswered"] == 1
    line = next(row for row in table({"mine": scores}).splitlines() if row.startswith("mine"))
    assert line.split() == ["mine", "-", "0.00", "-", "-", "-", "0.00", "0.00", "-", "0.00"]


def test_an_answer_to_another_split_is_refused(tmp_path: Path) -> None:
    problems = read_science_qa(write_science_qa(tmp_path), "test").problems
    with pytest.raises(DataError, match=r"1 answers are to no problem of this split \(first: id '77'\)"):
        score_answers({"77": "A"}, problems)


def test_a_random_guesser_scores_at_chance_in_every_column(tmp_path: Path) -> None:
    problems = read_science_qa(write_science_qa(tmp_path, many_problems(4000), pictures=False), "test").problems
    draw = random.Random(1)
    answers = {p.id: f"The answer is {draw.choice(p.letters)}." for p in problems}
    scores = score_answers(answers, problems)
    for name, counts in COLUMNS.items():
        chances = [1 / len(p.choices) for p in problems if counts(p)]
        expected = sum(chances)
        spread = math.sqrt(sum(chance * (1 - chance) for chance in chances))
        assert len(chances) == scores.columns[name].asked > 500
        assert abs(scores.columns[name].right - expected) < 4 * spread, name
    always = score_choices(choose_all({p.id: p.letters[p.answer] for p in problems}, problems), problems)
    assert all(score.accuracy == 1.0 for score in always.columns.values())


def test_the_published_rows_are_printed_beside_ours(tmp_path: Path) -> None:
    asked, rows = published()
    assert (asked, len(rows), {len(row) for row in rows.values()}) == (4241, 6, {len(COLUMNS)})
    assert rows["LLaVA"][-1] == 90.92
    assert rows["LLaVA + GPT-4 judge"] == (91.56, 96.74, 91.09, 90.62, 88.99, 93.52, 92.73, 92.16, 92.53)
    problems = read_science_qa(write_science_qa(tmp_path), "test").problems
    text = table({"runs/finetune-001": score_answers({"1": "A"}, problems)})
    assert "Avg" in text.splitlines()[0]
    assert "LLaVA + GPT-4 judge" in text
    assert "not comparable" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("style", ["qcm-lea", "qcm-lepa", "cqm-a"])
def test_conversion_loads_as_training_data(tmp_path: Path, style: Any) -> None:
    science = read_science_qa(write_science_qa(tmp_path / "sqa"), "test")
    done = convert(science, style, tmp_path / "out.json")
    assert (done.samples, done.with_picture) == (5, 2)
    rows = json.loads((tmp_path / "out.json").read_text())
    assert rows[0]["conversations"][0]["value"].endswith("\n<image>")
    assert "image" not in rows[1]
    assert "<image>" not in rows[1]["conversations"][0]["value"]
    table_ = load_conversations(tmp_path / "out.json", image_root=science.image_root)
    for conversation, source in zip(table_, science.problems, strict=True):
        images = (source.image,) if source.image else ()
        assert conversation.images == images
        # As evaluation asks: the picture first, then the text.
        parts = conversation.messages[0]["content"]
        assert [part["type"] for part in parts] == ["image"] * len(images) + ["text"]
        assert parts[-1]["text"] == question_text(source, style)
        assert conversation.messages[1]["content"][0]["text"] == answer_text(source, style)
        assert extract_choice(answer_text(source, style), len(source.choices)) == Chosen(source.answer)


def test_missing_pictures_stop_the_conversion(tmp_path: Path) -> None:
    science = read_science_qa(write_science_qa(tmp_path / "sqa", pictures=False), "test")
    with pytest.raises(
        DataError, match=r"2 pictures are not in .*images \(first: test/1/image.png, test/3/image.png\)"
    ):
        convert(science, "qcm-lea", tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()
    with pytest.raises(UsageError, match=r"--out .*: the folder .* does not exist; make it first"):
        convert(science, "qcm-lea", tmp_path / "nowhere" / "out.json")


def test_the_miniature_has_every_published_key() -> None:
    assert set(PROBLEMS["1"]) == {
        *("question", "choices", "answer", "hint", "image", "task", "grade", "subject", "topic"),
        *("category", "skill", "lecture", "solution", "split"),
    }
