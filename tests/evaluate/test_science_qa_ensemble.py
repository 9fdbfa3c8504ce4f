"""ScienceQA with a language model's help, against a real local server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from qllava.datagen.asking import Policy
from qllava.errors import TeacherError, UsageError
from qllava.evaluate.science_qa.ensemble import combine, parse_mode, pick_shots
from qllava.evaluate.science_qa.extract import Chosen, extract_choice
from qllava.evaluate.science_qa.problems import Problem, read_science_qa
from qllava.evaluate.text_model import TextModel
from tests.datagen.conftest import TeacherServer
from tests.datagen.teacher_server import completion
from tests.evaluate.science_qa_folder import many_problems, problem, write_science_qa


def settings(url: str, **changes: Any) -> TextModel:
    policy = Policy(concurrency=8, retries=6, backoff_s=0.01)
    return TextModel(
        **({"model": "tiny", "base_url": url, "role": "helper", "flag": "--helper", "policy": policy} | changes)
    )


def run(
    problems: tuple[Problem, ...], answers: dict[str, str], mode: Any, model: TextModel, out: Path, **how: Any
) -> Any:
    return combine(problems, answers, mode, model, out, view=lambda a, b: None, note=lambda line: None, **how)


def replies(server: TeacherServer, plan: dict[str, Any]) -> list[tuple[str, str]]:
    """(what was asked last, what came back) of every answered request."""
    said = []
    for entry in (e for e in server.log() if e["outcome"] == "answered"):
        content = completion(entry["body"], entry["key"], plan)["choices"][0]["message"]["content"]
        said.append((entry["body"]["messages"][-1]["content"], content or ""))
    return said


def test_complement_and_judge_by_hand(tmp_path: Path, server: TeacherServer) -> None:
    folder = write_science_qa(tmp_path / "sqa", many_problems(40), pictures=False)
    problems = read_science_qa(folder, "test").problems
    problems = tuple(
        Problem(**{f: getattr(p, f) for f in p.__slots__} | {"question": f"Question {p.id}?"}) for p in problems
    )
    plan = {
        "fault_share": 0.3,
        "faults": ["429", "500"],
        "outcome_share": 0.4,
        "keep_bodies": True,
        "retry_after": 0.01,
    }
    model = settings(server.start(**plan))
    answers = {p.id: "The answer is A." for p in problems if p.id != "3"}

    first = run(problems, answers, "complement", model, tmp_path / "out")
    theirs = {}
    for asked, text in replies(server, plan):
        match = re.match(r"Question (\d+)\?", asked)
        assert match is not None
        theirs[match[1]] = extract_choice(text, 2)
    assert len(theirs) == 40
    for p in problems:
        wanted = theirs[p.id] if theirs[p.id].choice is not None else extract_choice(answers.get(p.id), len(p.choices))
        assert first.chosen[p.id] == wanted
    assert first.filled == sum(found.choice is None for found in theirs.values()) > 5
    split = {p.id for p in problems if theirs[p.id].choice == 1 and p.id in answers}
    assert first.differed == len(split) > 5

    second = run(problems, answers, "judge", model, tmp_path / "out")
    words = {}
    for asked, text in replies(server, plan)[40:]:
        match = re.search(r"\[Question\]\nQuestion (\d+)\?", asked)
        assert match is not None
        assert "[Assistant 2]\nThe answer is A." in asked
        words[match[1]] = extract_choice(text, 2)
    assert words.keys() == split, "asked again where both differ, and nowhere else"
    for p in problems:
        word = words.get(p.id)
        wanted = first.chosen[p.id] if word is None else word if word.choice is not None else Chosen(0)
        assert second.chosen[p.id] == wanted
    assert second.undecided == sum(word.choice is None for word in words.values())
    outcomes = server.outcomes()
    run(problems, answers, "judge", model, tmp_path / "out")
    assert server.outcomes() == outcomes, "nothing is asked twice"


def test_worked_examples_come_first(tmp_path: Path, server: TeacherServer) -> None:
    train = {
        str(n): problem(split="train", question=f"Shot {n}?", image="image.png" if n == 0 else None) for n in range(4)
    }
    folder = write_science_qa(tmp_path / "sqa", train | {"9": problem(question="Which?")})
    shots = pick_shots(read_science_qa(folder, "train").problems)
    assert [shot.id for shot in shots] == ["1", "2"]
    model = settings(server.start(keep_bodies=True))
    run(read_science_qa(folder, "test").problems, {"9": "A"}, "complement", model, tmp_path / "out", shots=shots)
    (entry,) = server.log()
    assert [m["role"] for m in entry["body"]["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    assert entry["body"]["messages"][2]["content"].endswith("The answer is A.")
    assert entry["body"]["messages"][-1]["content"].startswith("Which?\nContext: N/A\nOptions: (A) ")


def test_a_helper_that_is_not_there(tmp_path: Path, server: TeacherServer) -> None:
    problems = read_science_qa(write_science_qa(tmp_path / "sqa"), "test").problems
    model = settings(server.start(status=404, message="no such model"))
    with pytest.raises(TeacherError, match="check --helper and --base-url"):
        run(problems, {"1": "A"}, "complement", model, tmp_path / "out")


def test_modes_by_name() -> None:
    assert parse_mode("judge") == "judge"
    with pytest.raises(UsageError, match="--ensemble vote is not known; take complement or judge"):
        parse_mode("vote")
