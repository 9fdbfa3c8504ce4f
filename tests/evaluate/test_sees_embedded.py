"""The embedded model with a random projector: a real language model, and still it does not look."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from qllava.checkpoint.load import build_encoder
from qllava.data.images import build_image_processor
from qllava.evaluate.held_out import as_conversations
from qllava.evaluate.questions import Question
from qllava.evaluate.sees import sees
from qllava.model.build import assemble
from qllava.model.embedded import resolve_model
from qllava.recipe import load_recipe

COLORS = ("red", "blue", "green", "yellow", "black", "white", "purple", "orange")


@pytest.mark.slow
def test_random_projector_weights_are_told(tmp_path: Path) -> None:
    for color in COLORS:
        Image.new("RGB", (64, 64), color).save(tmp_path / f"{color}.png")
    questions = [Question(color, f"{color}.png", "What color is the picture?", (color,)) for color in COLORS]
    recipe = load_recipe("smol")
    encoder = build_encoder(recipe, template=recipe.template)
    model = assemble(**recipe.model.model_dump(), image_token_id=encoder.image_token_id, device="cpu", seed=recipe.seed)
    sight = sees(
        model,
        as_conversations(questions),
        encoder=encoder,
        image_processor=build_image_processor(resolve_model(recipe.model.vision_tower), recipe.data.image_aspect),
        image_root=tmp_path,
        max_length=recipe.data.max_length,
        device="cpu",
    )
    assert sight is not None
    assert not sight.looks
    assert sight.sentence("align").startswith("stage 1 has NOT aligned: the picture makes no difference")
    assert sight.sentence("finetune").startswith("the model does NOT look: the picture makes no difference")
