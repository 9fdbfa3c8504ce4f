"""What a stage is scored on at its end: held-out questions where there are any, else samples it trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from qllava.checkpoint.load import build_encoder
from qllava.data.chat_template import stage_template
from qllava.data.images import build_image_processor
from qllava.train.look import look
from qllava.train.parts import Parts, build_parts
from qllava.train.request import TrainRequest
from qllava.train.samples import Samples, open_samples
from qllava.types import Stage
from tests.train.workspace import COLORS, SilentView, make_workspace, request


def prepared(workspace: Path, stage: Stage) -> tuple[TrainRequest, Samples, Parts]:
    """An untrained model of a stage; without an align run stage 2 has a random projector and no adapter."""
    asked = request(workspace, stage)
    recipe = asked.recipe
    encoder = build_encoder(recipe, template=stage_template(recipe.template, recipe.align_template, stage))
    processor = build_image_processor(recipe.model.vision_tower, recipe.data.image_aspect)
    return asked, open_samples(asked, workspace / "new", encoder, SilentView()), build_parts(asked, encoder, processor)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    make_workspace(tmp_path)
    rows = [
        {"id": str(n), "image": f"{n}.png", "question": "What color?", "answers": [list(COLORS)[n % 4]]}
        for n in range(5)
    ]
    (tmp_path / "data" / "heldout.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_stage_2_is_asked_what_was_held_out(workspace: Path) -> None:
    sight = look(*prepared(workspace, "finetune"), SilentView())
    assert sight is not None
    assert (sight.samples, sight.pictures) == (5, 5)
    assert not sight.looks


def test_stage_1_drops_questions_and_is_scored_on_its_captions(workspace: Path) -> None:
    sight = look(*prepared(workspace, "align"), SilentView())
    assert sight is not None
    assert (sight.samples, sight.pictures) == (8, 8)


@pytest.mark.parametrize("damage", ["text", "picture"])
def test_a_damaged_question_set_does_not_end_a_run(workspace: Path, damage: str) -> None:
    path = workspace / "data" / "heldout.jsonl"
    path.write_text("{" if damage == "text" else path.read_text().replace("4.png", "lost.png"))
    view = SilentView()
    sight = look(*prepared(workspace, "finetune"), view)
    assert sight is not None
    assert sight.samples == 16
    assert ("held-out questions", "not used") in view.notes


def test_hub_data_have_nothing_held_out(workspace: Path) -> None:
    asked, samples, parts = prepared(workspace, "finetune")
    elsewhere = replace(asked, data=replace(asked.data, path="owner/name"))
    sight = look(elsewhere, samples, parts, SilentView())
    assert sight is not None
    assert sight.samples == 16
