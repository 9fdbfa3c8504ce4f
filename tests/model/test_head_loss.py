"""The loss in parts equals the loss of all logits at once, which never exist."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from qllava.model import head_loss as module
from qllava.model.head_loss import head_loss

VOCABULARY, WIDTH = 50, 16


def frozen_head(dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(WIDTH, VOCABULARY, bias=False, dtype=dtype).requires_grad_(False)


def inputs(positions: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(positions, WIDTH, generator=generator).to(dtype).requires_grad_(True)
    return hidden, torch.randint(VOCABULARY, (positions,), generator=generator)


@pytest.mark.parametrize("positions", [0, 1, 6, 7, 23])
@pytest.mark.parametrize("autocast", [False, True])
def test_parts_equal_the_whole(monkeypatch: pytest.MonkeyPatch, positions: int, autocast: bool) -> None:
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 6 * VOCABULARY)
    head = frozen_head()
    hidden, target = inputs(positions)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = head(hidden).float()
        expected = functional.cross_entropy(logits, target, reduction="sum")
        found, right = head_loss(head, hidden, target)
    (slow,) = torch.autograd.grad(expected / 7, hidden)
    (fast,) = torch.autograd.grad(found / 7, hidden)
    assert torch.allclose(found, expected, rtol=1e-6)
    assert int(right) == int((logits.argmax(-1) == target).sum())
    assert torch.allclose(fast, slow, rtol=2e-2 if autocast else 1e-5, atol=1e-3 if autocast else 1e-7)


def test_no_more_logits_than_allowed_are_made_or_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 4 * VOCABULARY)
    head, made, kept = frozen_head(), list[int](), list[int]()
    head.register_forward_hook(lambda *call: made.append(len(call[2])))
    hidden, target = inputs(10)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() != head.weight.data_ptr():
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = head_loss(head, hidden, target)
    assert made == [4, 4, 2]
    loss.backward()
    assert max(kept) == 4 * VOCABULARY  # of one part, while it was worked out
    assert kept[-1] == hidden.numel()  # what outlives the forward pass


def test_without_gradients_nothing_is_kept() -> None:
    hidden, target = inputs(10)
    with torch.no_grad():
        loss, right = head_loss(frozen_head(), hidden, target)
    assert not loss.requires_grad
    assert not right.requires_grad


def test_a_head_that_learns_is_refused() -> None:
    hidden, target = inputs(3)
    with pytest.raises(ValueError, match="the head learns"):
        head_loss(frozen_head().requires_grad_(True), hidden, target)
