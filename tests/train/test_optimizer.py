"""Which optimizer a run takes, and that the projector's states stay fp32 beside 8-bit ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qllava.errors import UsageError
from qllava.train.optimizer import Optimizer, OptimizerSetting, build_optimizer, choose_optimizer


@pytest.mark.parametrize(
    ("setting", "device", "fits", "expected"),
    [
        ("auto", "cuda", True, "adamw"),
        ("auto", "cuda", False, "paged_adamw_8bit"),
        ("auto", "cpu", False, "adamw"),
        ("adamw", "cuda", False, "adamw"),
        ("paged_adamw_8bit", "cuda", True, "paged_adamw_8bit"),
    ],
)
def test_the_choice(setting: OptimizerSetting, device: str, fits: bool, expected: Optimizer) -> None:
    assert choose_optimizer(setting, device=device, fits=fits) == expected


def test_eight_bits_need_a_card() -> None:
    with pytest.raises(UsageError, match=r"paged_adamw_8bit needs an NVIDIA card; use --optimizer adamw"):
        choose_optimizer("paged_adamw_8bit", device="cpu", fits=True)


def step(kind: Optimizer, *, steps: int = 3) -> tuple[torch.optim.Optimizer, nn.Parameter, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    lora, projector = (nn.Parameter(torch.randn(128, 128, generator=generator)) for _ in range(2))
    groups = [{"params": [lora], "lr": 1e-2}, {"params": [projector], "lr": 1e-3}]
    optimizer = build_optimizer(kind, groups, keep_fp32=[projector], betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        (lora.square().sum() + (projector - 1).square().sum()).backward()
        optimizer.step()
    return optimizer, lora, projector


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU:UserWarning")
def test_the_projectors_states_stay_exact() -> None:
    """bitsandbytes' own processor kernels: LoRA in 8 bits near AdamW, the projector in fp32 equal to it."""
    eight, lora, projector = step("paged_adamw_8bit")
    assert eight.state[lora]["state1"].dtype == eight.state[lora]["state2"].dtype == torch.uint8
    assert eight.state[projector]["state1"].dtype == eight.state[projector]["state2"].dtype == torch.float32
    _, exact_lora, exact_projector = step("adamw")
    assert torch.allclose(projector, exact_projector, atol=1e-6)
    assert torch.allclose(lora, exact_lora, atol=2e-2)
    assert not torch.equal(lora, exact_lora)
