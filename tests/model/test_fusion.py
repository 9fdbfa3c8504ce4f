"""Fused layers: traced once for all layers and lengths, with the same gradients; the compiler itself needs a card."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from qllava.model.build import assemble
from qllava.model.checkpointing import checkpoint_layers
from qllava.model.forward import loss_sum
from qllava.model.fusion import fuse_layers, unfuse_layers
from tests.packs import random_pack
from tests.tiny import save_language_model, save_tower


@pytest.mark.slow  # tracing takes half a minute
# Dynamo looks for gradients of hidden states and hides the warning where it would be shown; as an error it is not.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("every", [None, 1])
def test_one_trace_serves_all_layers_and_lengths(tmp_path: Path, every: int | None) -> None:
    model = assemble(
        language_model=str(save_language_model(tmp_path / "lm")),
        vision_tower=str(save_tower(tmp_path / "tower")),
        projector="mlp2x_gelu",
        feature_layer=-2,
        patches="default",
        quantization="none",
        image_token_id=350,
        device="cpu",
        seed=3,
    ).float()
    model.model.vision_tower.float()
    model.model.multi_modal_projector.requires_grad_(True)
    model.train()
    checkpoint_layers(model, every)
    names = list(model.state_dict())

    def gradients(seed: int) -> list[torch.Tensor]:
        model.zero_grad()
        loss_sum(model, random_pack(model.config, seed=seed))[0].backward()
        return [p.grad.clone() for p in model.model.multi_modal_projector.parameters() if p.grad is not None]

    slow = [gradients(seed) for seed in range(3)]
    torch._dynamo.reset()
    counters.clear()
    fuse_layers(model, backend="eager")
    assert list(model.state_dict()) == names
    for seed, expected in enumerate(slow):
        for found, gradient in zip(gradients(seed), expected, strict=True):
            assert torch.allclose(found, gradient, rtol=1e-5, atol=1e-7)
    assert counters["stats"]["unique_graphs"] == 1
    unfuse_layers(model)
    assert torch.equal(gradients(0)[0], slow[0][0])
    assert counters["stats"]["unique_graphs"] == 1
