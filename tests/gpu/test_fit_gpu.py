"""On a card: FlexAttention and fused layers give the same gradients, and what the probe finds really fits.

Run with `make test-gpu`; skipped elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from qllava.checkpoint.weights import llava_of
from qllava.model.attention import AttentionKernel, use_kernel
from qllava.model.build import assemble
from qllava.model.checkpointing import checkpoint_layers
from qllava.model.forward import loss_sum
from qllava.model.fusion import fuse_layers
from qllava.model.lora import add_lora
from qllava.model.precision import autocast
from tests.packs import random_pack
from tests.tiny import save_language_model, save_tower

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card"),
]


def build(folder: Path, family: str = "llama", window: int | None = None) -> LlavaForConditionalGeneration:
    """A tiny NF4 model on the card with LoRA, B not zero, and everything that stage 2 trains."""
    model = assemble(
        language_model=str(save_language_model(folder / "lm", family, window=window)),
        vision_tower=str(save_tower(folder / "tower")),
        projector="mlp2x_gelu",
        feature_layer=-2,
        patches="default",
        quantization="nf4",
        image_token_id=350,
        device="cuda",
        seed=3,
    )
    adapted = add_lora(model, rank=8, alpha=16, dropout=0.0, seed=1)
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_(".lora_" in name or "multi_modal_projector" in name)
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.05)
    adapted.train()
    return llava_of(adapted)


def gradients(model: LlavaForConditionalGeneration, seed: int) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    pack = {name: tensor.cuda() for name, tensor in random_pack(model.config, seed=seed).items()}
    with autocast("cuda"):
        loss, _ = loss_sum(model, pack)
    loss.backward()
    return float(loss), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_close(model: LlavaForConditionalGeneration, change: Callable[[], None], *, relative: float = 0.03) -> None:
    """Before and after `change`, two packs of different length give gradients equal to bf16 rounding."""
    slow = [gradients(model, seed) for seed in range(2)]
    change()
    fast = [gradients(model, seed) for seed in range(2)]
    for (loss, expected), (other, found) in zip(slow, fast, strict=True):
        assert other == pytest.approx(loss, rel=5e-3)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert (found[name] - gradient).norm() <= relative * gradient.norm() + 1e-6, name


@pytest.mark.parametrize(("family", "window"), [("llama", None), ("qwen2", 9), ("mistral", 9)])
@pytest.mark.parametrize("every", [None, 1])
@pytest.mark.parametrize("kernel", ["flex", "segments"])
def test_other_kernels_equal_sdpa(
    tmp_path: Path, family: str, window: int | None, every: int | None, kernel: AttentionKernel
) -> None:
    model = build(tmp_path, family, window)
    checkpoint_layers(model, every)
    assert_close(model, lambda: use_kernel(model, kernel))


@pytest.mark.parametrize("every", [None, 1, 2])
def test_fused_layers_equal_plain_ones(tmp_path: Path, every: int | None) -> None:
    model = build(tmp_path)
    checkpoint_layers(model, every)
    assert_close(model, lambda: fuse_layers(model))


def test_a_whole_run_is_probed_and_stays_inside_its_cap(tmp_path: Path) -> None:
    """Stage 1 on the card under `--vram 8`: the room is measured, remembered, and torch stays below the cap."""
    from qllava.plan.device import probe_devices
    from qllava.train.card import torch_bytes
    from qllava.train.room import saved_room
    from qllava.train.run import train
    from tests.train.workspace import SilentView, make_workspace, request

    asked = request(make_workspace(tmp_path), "align", probe=probe_devices(), vram_gib=8.0)
    torch.cuda.reset_peak_memory_stats()
    run = train(asked, SilentView()).run
    saved = saved_room(run.folder, device=asked.probe.name, vram_gib=8.0)
    assert saved is not None
    assert saved.peak is not None
    assert saved.peak <= torch_bytes(8.0)
    assert torch.cuda.max_memory_reserved() <= torch_bytes(8.0)


def test_a_real_out_of_memory_is_recovered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third pack's forward asks the card for more than it has; the step is done again and the run finishes."""
    from qllava.plan.device import probe_devices
    from qllava.train import trainer
    from qllava.train.run import train
    from tests.train.workspace import SilentView, make_workspace, request

    real, calls = trainer.loss_sum, list[int]()

    def greedy(model: object, pack: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(pack["input_ids"]))
        # The first rehearsals belong to the probe.
        if len(calls) > 1 and calls[-1] < 300 and not failed:
            failed.append(True)
            torch.empty(2**45, dtype=torch.uint8, device="cuda")
        return real(model, pack)  # type: ignore[arg-type]

    failed: list[bool] = []
    monkeypatch.setattr(trainer, "loss_sum", greedy)
    run = train(request(make_workspace(tmp_path), "align", probe=probe_devices()), SilentView()).run
    assert run.finished
    assert failed == [True]
