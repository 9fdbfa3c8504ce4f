"""Cross-entropy through a frozen head, some positions at a time: the logits of all of them never exist at once.

At 4,096 supervised tokens and Llama 3's 128,256 words, logits, log-probabilities and their gradient are 6 GiB in fp32;
in parts they are 0.1. Since the head does not learn, the gradient of the hidden states is all that is kept, and it is
worked out in the forward pass, while a part's logits are there: nothing is computed twice.

Shapes: S supervised positions, D model width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from qllava.plan.activations import LOGITS_AT_ONCE


def head_loss(head: nn.Linear, hidden: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy in nats, and how many tokens were predicted right (greedy).

    Args:
        head: from D to the vocabulary; frozen.
        hidden: (S, D) states that predict.
        target: (S,) token ids.

    Returns: () fp32, through which gradients reach `hidden`; () int.

    Raises:
        ValueError: the head learns; its gradients would be lost.
    """
    if any(parameter.requires_grad for parameter in head.parameters()):
        raise ValueError("the head learns; its loss needs all logits at once")
    positions = max(1, LOGITS_AT_ONCE // head.out_features)
    loss, right = _HeadLoss.apply(hidden, target, head, positions)  # type: ignore[no-untyped-call]
    return loss, right


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, target: torch.Tensor, head: nn.Linear, positions: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wanted else None
        loss = torch.zeros((), device=hidden.device)
        right = torch.zeros((), dtype=torch.long, device=hidden.device)
        for start in range(0, len(target), positions):
            part = slice(start, start + positions)
            with torch.set_grad_enabled(wanted):
                states = hidden[part].detach().requires_grad_(wanted)
                logits = head(states).float()
                summed = functional.cross_entropy(logits, target[part], reduction="sum")
                if gradient is not None:
                    (gradient[part],) = torch.autograd.grad(summed, states)
            loss += summed.detach()
            right += (logits.detach().argmax(-1) == target[part]).sum()
        ctx.mark_non_differentiable(right)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return loss, right

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0].to(gradient.dtype), None, None, None
