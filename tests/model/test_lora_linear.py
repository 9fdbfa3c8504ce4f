"""LoRA as one step equals PEFT's own forward and backward, and leaves alone what is not plain LoRA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel

from qllava.model.build import assemble
from qllava.model.checkpointing import checkpoint_layers
from qllava.model.forward import loss_sum
from qllava.model.lora import add_lora
from qllava.model.lora_linear import join_lora
from qllava.model.precision import compute_dtype
from tests.packs import random_pack
from tests.tiny import save_language_model, save_tower

pytestmark = pytest.mark.skipif(compute_dtype("cpu") != torch.float32, reason="this processor computes in bf16")


def build(folder: Path, family: str = "llama", *, dropout: float = 0.0, quantization: str = "nf4") -> PeftModel:
    base = assemble(
        language_model=str(save_language_model(folder / "lm", family)),
        vision_tower=str(save_tower(folder / "tower")),
        projector="mlp2x_gelu",
        feature_layer=-2,
        patches="default",
        quantization=quantization,
        image_token_id=350,
        device="cpu",
        seed=3,
    )
    model = add_lora(base, rank=4, alpha=8, dropout=dropout, seed=0)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name or "multi_modal_projector" in name)
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    return model.train()


def gradients(model: PeftModel) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss, _ = loss_sum(model.get_base_model(), random_pack(model.config, seed=1))
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("every", [None, 1])
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])  # qwen2's have a bias
def test_equals_peft(tmp_path: Path, family: str, every: int | None) -> None:
    model = build(tmp_path, family)
    checkpoint_layers(model.get_base_model(), every)
    names = list(model.state_dict())
    expected_loss, expected = gradients(model)
    assert join_lora(model) == 14
    loss, found = gradients(model)
    assert list(model.state_dict()) == names
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name
    with model.disable_adapter():
        off, _ = loss_sum(model.get_base_model(), random_pack(model.config, seed=1))
    assert abs(float(off.detach()) - loss) > 1e-3


def test_what_is_not_plain_keeps_its_forward(tmp_path: Path) -> None:
    assert join_lora(build(tmp_path / "a", dropout=0.1)) == 0
    assert join_lora(build(tmp_path / "b", quantization="none")) == 0


def test_fewer_bytes_are_kept_than_by_peft(tmp_path: Path) -> None:
    model = build(tmp_path)

    def kept() -> int:
        storages = dict[int, torch.UntypedStorage]()

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss_sum(model.get_base_model(), random_pack(model.config, seed=1))
        return sum(storage.nbytes() for storage in storages.values())

    stock = kept()
    join_lora(model)
    assert kept() <= stock
