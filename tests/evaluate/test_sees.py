"""Whether the model looks: the right picture against another one, and against none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qllava.checkpoint.load import build_encoder
from qllava.checkpoint.weights import llava_of
from qllava.data.encode import ChatEncoder, Encoded
from qllava.data.formats import load_conversations
from qllava.data.images import build_image_processor, open_image, pixel_statistics, to_pixels
from qllava.evaluate.bootstrap import Difference, Estimate
from qllava.evaluate.sees import Seen, Sight, sees
from qllava.evaluate.token_scores import Pixels, token_scores
from qllava.model.build import assemble
from qllava.train.run import train
from qllava.types import IMAGE, Conversation, text
from tests.train.workspace import SilentView, make_workspace, request, tiny_recipe


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return make_workspace(tmp_path)


def sight_of(workspace: Path, *, samples: int, template: str = "plain") -> Sight | None:
    """Of an untrained model, whose projector is random, on the first stage-1 samples."""
    recipe = tiny_recipe(workspace)
    encoder = build_encoder(recipe, template=template)
    model = assemble(**recipe.model.model_dump(), image_token_id=encoder.image_token_id, device="cpu", seed=recipe.seed)
    table = load_conversations(workspace / "data/align.json")
    sight = sees(
        model,
        [table[i] for i in range(samples)],
        encoder=encoder,
        image_processor=build_image_processor(recipe.model.vision_tower, "pad"),
        image_root=workspace / "pictures",
        max_length=256,
        device="cpu",
    )
    assert llava_of(model).training
    return sight


def test_a_random_projector_does_not_look(workspace: Path) -> None:
    sight = sight_of(workspace, samples=8)
    assert sight is not None
    assert (sight.samples, sight.pictures, sight.left_out) == (8, 8, {})
    assert not sight.looks
    assert sight.sentence("align").startswith("stage 1 has NOT aligned: the picture makes no difference; loss ")
    assert sight.sentence("finetune").startswith("the model does NOT look: the picture makes no difference; loss ")
    assert "does not depend on the picture" in str(sight.advice("align"))
    assert "answers the same whatever it is shown" in str(sight.advice())
    assert sight_of(workspace, samples=8) == sight


def test_one_picture_cannot_be_shuffled(workspace: Path) -> None:
    assert sight_of(workspace, samples=1) is None


def test_a_trained_one_looks(workspace: Path) -> None:
    recipe = tiny_recipe(workspace, align={"learning_rate": 2e-2, "batch_size": 8, "epochs": 60, "save_steps": 1000})
    outcome = train(request(workspace, "align", recipe=recipe), SilentView())
    sight = outcome.sight
    assert sight is not None
    assert sight.looks
    assert sight.advice("align") is None
    assert sight.sentence("align").startswith("stage 1 aligned; loss ")
    losses = {name: seen.loss.value for name, seen in sight.conditions.items()}
    assert losses["right"] < losses["shuffled"]
    assert outcome.run.manifest.picture == losses


def tiny_parts(workspace: Path) -> tuple[torch.nn.Module, ChatEncoder, list[Encoded], dict[str, Pixels]]:
    recipe = tiny_recipe(workspace)
    encoder = build_encoder(recipe, template="chatml")
    model = assemble(**recipe.model.model_dump(), image_token_id=encoder.image_token_id, device="cpu", seed=recipe.seed)
    model.eval()
    table = load_conversations(workspace / "data/instruct.json")
    samples = [encoder.encode(table[i]) for i in (0, 2, 1, 3, 16, 4)]  # shared pictures, mixed, one text-only
    processor = build_image_processor(recipe.model.vision_tower, "pad")
    pixels = {f"{n}.png": to_pixels(processor, open_image(workspace / "pictures" / f"{n}.png")) for n in range(8)}
    return model, encoder, samples, pixels


def test_packed_scores_equal_those_of_samples_run_alone(workspace: Path) -> None:
    model, encoder, samples, pixels = tiny_parts(workspace)
    statistics = pixel_statistics(build_image_processor(tiny_recipe(workspace).model.vision_tower, "pad"))
    done: dict[bool, list[int]] = {True: [], False: []}
    found = {
        share: token_scores(
            model,  # type: ignore[arg-type]
            samples,
            pixels.__getitem__,
            statistics=statistics,
            image_token_id=encoder.image_token_id,
            device="cpu",
            share=share,
            scored=done[share].append,
        )
        for share in (True, False)
    }
    assert done == {True: [6], False: [1, 2, 3, 4, 5, 6]}
    for packed, alone, sample in zip(found[True], found[False], samples, strict=True):
        assert len(packed.loss) == sum(sample.assistant_mask)
        assert packed.loss == pytest.approx(alone.loss, abs=1e-4)
        assert packed.right.tolist() == alone.right.tolist()
    assert found[True][0].last(1).loss.tolist() == found[True][0].loss.tolist()[-1:]


def test_what_cannot_be_scored_is_counted(workspace: Path) -> None:
    recipe = tiny_recipe(workspace)
    encoder = build_encoder(recipe, template="chatml")
    model = assemble(**recipe.model.model_dump(), image_token_id=encoder.image_token_id, device="cpu", seed=recipe.seed)
    table = load_conversations(workspace / "data/instruct.json")
    two = Conversation(
        "two",
        ("0.png", "1.png"),
        (
            {"role": "user", "content": [IMAGE, IMAGE, text("Which?")]},
            {"role": "assistant", "content": [text("red")]},
        ),
    )
    long = replace(
        two, images=("0.png",), messages=({"role": "user", "content": [IMAGE, text("x " * 300)]}, two.messages[1])
    )
    sight = sees(
        model,
        [*table, two, long],
        encoder=encoder,
        image_processor=build_image_processor(recipe.model.vision_tower, "pad"),
        image_root=workspace / "pictures",
        max_length=256,
        device="cpu",
    )
    assert sight is not None
    assert (sight.samples, sight.pictures) == (16, 8)
    assert sight.left_out == {"text only": 1, "several pictures": 1, "too_long": 1}


def sight(value: float, low: float) -> Sight:
    seen = Seen(Estimate(1.25, 1.0, 1.5), Estimate(0.5, 0.4, 0.6))
    other = Seen(Estimate(1.25 + value, 1.0, 3.0), Estimate(0.1, 0.0, 0.2))
    costs = Difference(value, low, 2 * value, 0.01)
    return Sight({"right": seen, "shuffled": other, "none": other}, costs, costs, 8, 8)


@pytest.mark.parametrize(("value", "low", "looks"), [(1.25, 1.0, True), (0.04, 0.01, False), (0.5, -0.1, False)])
def test_looking_needs_a_difference_that_is_large_and_sure(value: float, low: float, looks: bool) -> None:
    assert sight(value, low).looks is looks


def test_the_sentence_gives_both_losses() -> None:
    assert sight(1.25, 1.0).sentence() == (
        "the model looks; loss 1.25 with the right picture, 2.50 with another (+1.25, 95 % +1.00 to +2.50)"
    )
