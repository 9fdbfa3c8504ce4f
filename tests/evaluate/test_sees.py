"""Whether the model looks: the right picture against another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from qllava.checkpoint.load import build_encoder
from qllava.checkpoint.weights import llava_of
from qllava.data.formats import load_conversations
from qllava.data.images import build_image_processor
from qllava.evaluate.sees import PictureGain, picture_gain
from qllava.model.build import assemble
from qllava.train.run import train
from tests.train.workspace import SilentView, make_workspace, request, tiny_recipe


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return make_workspace(tmp_path)


def gain_of(workspace: Path, *, samples: int) -> PictureGain | None:
    """Of an untrained model on the first stage-1 samples."""
    recipe = tiny_recipe(workspace)
    encoder = build_encoder(recipe, template="plain")
    model = assemble(**recipe.model.model_dump(), image_token_id=encoder.image_token_id, device="cpu", seed=recipe.seed)
    table = load_conversations(workspace / "data/align.json")
    gain = picture_gain(
        model,
        [table[i] for i in range(samples)],
        encoder=encoder,
        image_processor=build_image_processor(recipe.model.vision_tower, "pad"),
        image_root=workspace / "pictures",
        max_length=256,
        device="cpu",
    )
    assert llava_of(model).training
    return gain


def test_an_untrained_projector_does_not_look(workspace: Path) -> None:
    gain = gain_of(workspace, samples=4)
    assert gain is not None
    assert gain.samples == 4
    assert not gain.looks
    assert "the picture makes NO difference yet" in gain.sentence()
    assert gain_of(workspace, samples=4) == gain


def test_one_picture_cannot_be_shuffled(workspace: Path) -> None:
    assert gain_of(workspace, samples=1) is None


def test_a_trained_one_looks(workspace: Path) -> None:
    recipe = tiny_recipe(workspace, align={"learning_rate": 2e-2, "batch_size": 8, "epochs": 60, "save_steps": 1000})
    outcome = train(request(workspace, "align", recipe=recipe), SilentView())
    assert outcome.gain is not None
    assert outcome.gain.looks
    assert outcome.gain.right < outcome.gain.shuffled
    assert outcome.run.manifest.picture == {"right": outcome.gain.right, "shuffled": outcome.gain.shuffled}


def test_the_sentence_gives_both_losses() -> None:
    sentence = PictureGain(right=1.25, shuffled=2.5, samples=8).sentence()
    assert sentence == "loss 1.25 with the right picture, 2.50 with another: the model looks at the picture"
