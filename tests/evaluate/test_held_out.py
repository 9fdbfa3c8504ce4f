"""What a run is scored on: held-out questions where its template asks them, else what it trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qllava.checkpoint.manifest import Manifest, Run
from qllava.errors import DataError
from qllava.evaluate.held_out import as_conversations, held_out_of, is_question_set, read_held_out, spread_over
from qllava.evaluate.questions import Question
from qllava.types import IMAGE, Stage, text
from tests.train.workspace import make_workspace, tiny_recipe

QUESTION = {"id": "1", "image": "0.png", "question": "What color?", "answers": ["red", "crimson"]}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    make_workspace(tmp_path)
    (tmp_path / "data" / "heldout.jsonl").write_text(json.dumps(QUESTION))
    return tmp_path


def run_of(workspace: Path, stage: Stage, align_template: str = "plain") -> Run:
    folder = workspace / "runs" / f"{stage}-001"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(tiny_recipe(workspace, align_template=align_template).to_yaml())
    name = "align.json" if stage == "align" else "instruct.json"
    data = {"path": f"data/{name}", "image_root": "pictures"}
    manifest = Manifest(stage=stage, status="finished", recipe="0", data=data, model={})
    return Run(folder, manifest)


def test_a_question_becomes_a_sample_with_its_first_answer() -> None:
    with_picture, without = as_conversations(
        [Question("1", "a.jpg", "What?", ("red", "crimson"), "color"), Question("2", None, "Why?", ("so",))]
    )
    assert with_picture.images == ("a.jpg",)
    assert with_picture.kind == "color"
    assert with_picture.messages == (
        {"role": "user", "content": [IMAGE, text("What?")]},
        {"role": "assistant", "content": [text("red")]},
    )
    assert without.images == ()
    assert without.messages[0]["content"] == [text("Why?")]


def test_a_finetune_run_is_scored_on_its_held_out_questions(workspace: Path) -> None:
    held = held_out_of(run_of(workspace, "finetune"), limit=10)
    assert held.what.startswith("questions of ")
    assert [c.id for c in held.conversations] == ["1"]
    assert held.image_root.resolve() == workspace / "pictures"


def test_a_run_whose_template_drops_questions_is_scored_on_its_own_samples(workspace: Path) -> None:
    held = held_out_of(run_of(workspace, "align"), limit=3)
    assert held.what.startswith("samples it trained on, of ")
    assert [c.id for c in held.conversations] == ["a0", "a2", "a5"]
    assert held.image_root.resolve() == workspace / "pictures"


def test_an_align_run_that_chats_is_asked(workspace: Path) -> None:
    assert held_out_of(run_of(workspace, "align", "chat"), limit=3).what.startswith("questions of ")


def test_data_that_is_gone_is_named(workspace: Path) -> None:
    run = run_of(workspace, "finetune")
    (workspace / "data" / "instruct.json").unlink()
    with pytest.raises(DataError, match=r"the data of .*finetune-001 \(data/instruct.json\) is not there; name a file"):
        held_out_of(run, limit=3)


def test_questions_and_conversations_are_told_apart(workspace: Path) -> None:
    data = workspace / "data"
    assert is_question_set(data / "heldout.jsonl")
    assert not is_question_set(data / "align.json")
    (data / "talk.jsonl").write_text(json.dumps({"id": 1, "conversations": []}))
    assert not is_question_set(data / "talk.jsonl")
    held = read_held_out(data / "instruct.json", None, limit=4)
    assert len(held.conversations) == 4
    assert held.what.startswith("samples of ")


def test_a_spread_takes_the_first_and_even_steps() -> None:
    conversations = as_conversations([Question(str(n), None, "?", ("x",)) for n in range(5)])
    assert [c.id for c in spread_over(conversations, 2)] == ["0", "2"]
    assert len(spread_over(conversations, 9)) == 5
    assert spread_over([], 3) == []
