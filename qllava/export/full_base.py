"""LoRA's other base: the original 16-bit weights, which the run never saw in full."""

from __future__ import annotations

import torch
from torch import nn

from qllava.checkpoint.manifest import Run
from qllava.export.merge import Base
from qllava.model.build import load_language_model
from qllava.model.quantize import LANGUAGE_MODEL


def full_base(run: Run, *, device: str) -> Base:
    """Weights of the run's language model as they were published; the whole of it is in memory.

    Raises:
        ModelError: the language model cannot be loaded.
    """
    source = load_language_model(run.recipe.model.language_model, quantization="none", device=device)
    weights = dict(source.named_parameters())

    def base(name: str, layer: nn.Module) -> torch.Tensor:
        del layer
        return weights[f"model.{name.removeprefix(LANGUAGE_MODEL)}.weight"].detach()

    return base
