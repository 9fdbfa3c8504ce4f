"""The tower as training runs it: only as far as its features are wanted, and equal to the stock forward."""

from __future__ import annotations

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from qllava.model.build import assemble
from qllava.model.forward import tower_features
from tests.packs import pixels_of
from tests.tiny import save_language_model, save_tower


@pytest.fixture(scope="module", params=["clip", "siglip"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LlavaForConditionalGeneration:
    folder = tmp_path_factory.mktemp(request.param)
    return assemble(
        language_model=str(save_language_model(folder / "lm")),
        vision_tower=str(save_tower(folder / "tower", request.param)),
        projector="mlp2x_gelu",
        feature_layer=-2,
        patches="full",
        quantization="none",
        image_token_id=350,
        device="cpu",
        seed=3,
    )


@pytest.mark.parametrize("layer", [-4, -3, -2, -1, 0, 1, 3])
@pytest.mark.parametrize("strategy", ["full", "default"])
def test_features_are_the_stock_hidden_state(model: LlavaForConditionalGeneration, layer: int, strategy: str) -> None:
    pixels = pixels_of(("a", "b", "c"))
    tower = model.model.vision_tower
    stock = tower(pixels.to(tower.dtype), output_hidden_states=True).hidden_states[layer]
    model.config.vision_feature_layer, model.config.vision_feature_select_strategy = layer, strategy
    features = tower_features(model, pixels)
    assert torch.equal(features, stock if strategy == "full" else stock[:, 1:])
    assert not features.requires_grad


def test_layers_above_the_chosen_one_do_not_run(model: LlavaForConditionalGeneration) -> None:
    model.config.vision_feature_layer = -2
    ran: list[int] = []
    layers = model.model.vision_tower.encoder.layers
    hooks = [layer.register_forward_hook(lambda *_, n=number: ran.append(n)) for number, layer in enumerate(layers)]
    tower_features(model, pixels_of(("a",)))
    for hook in hooks:
        hook.remove()
    assert ran == [0, 1]  # of three
