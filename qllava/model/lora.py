"""LoRA on the language model's linears, and nowhere else."""

from __future__ import annotations

import re

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import LlavaForConditionalGeneration

from qllava.errors import ModelError
from qllava.model.quantize import LANGUAGE_MODEL

PROJECTOR = "model.multi_modal_projector."


def lora_config(model: nn.Module, *, rank: int, alpha: int, dropout: float) -> LoraConfig:
    """LoRA for every linear inside the language model's layers.

    The pattern is anchored on `model.language_model`: suffix lists and `all-linear` also hit the tower (whose
    attention has the same names) and the projector.
    """
    names = sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if name.startswith(LANGUAGE_MODEL) and isinstance(module, nn.Linear)
        }
    )
    if not names:
        raise ModelError("the language model has no linear for LoRA to adapt; use another base model")
    pattern = rf"{re.escape(LANGUAGE_MODEL)}layers\.\d+\..*\.({'|'.join(names)})"
    return LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=pattern, bias="none")


def add_lora(model: LlavaForConditionalGeneration, *, rank: int, alpha: int, dropout: float, seed: int) -> PeftModel:
    """Wrap a model with fresh fp32 LoRA matrices (A random from `seed`, B zero)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, lora_config(model, rank=rank, alpha=alpha, dropout=dropout))
    audit_lora(wrapped)
    return wrapped


def audit_lora(model: nn.Module) -> int:
    """Check that LoRA sits on the language model only, and on all its layers' linears.

    Returns: the number of adapted linears.

    Raises:
        ModelError: names the first offender.
    """
    adapted = {name.split(".lora_A.")[0] for name, _ in model.named_parameters() if ".lora_A." in name}
    for name in adapted:
        if LANGUAGE_MODEL not in name:
            raise ModelError(f"LoRA landed on {name}; it may only be on linears under {LANGUAGE_MODEL}")
    if not adapted:
        raise ModelError("LoRA was added to no linear")
    return len(adapted)
