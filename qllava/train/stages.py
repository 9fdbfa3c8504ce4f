"""What each stage trains: the projector in both, LoRA in the second."""

from __future__ import annotations

from peft import PeftModel
from torch import nn
from transformers import LlavaForConditionalGeneration

from qllava.checkpoint.weights import llava_of
from qllava.errors import ModelError
from qllava.model.build import projector_parameters


def lora_parameters(model: PeftModel | LlavaForConditionalGeneration) -> list[nn.Parameter]:
    """The LoRA matrices, in the model's order; empty without an adapter."""
    return [parameter for name, parameter in model.named_parameters() if ".lora_A." in name or ".lora_B." in name]


def trainable_groups(
    model: PeftModel | LlavaForConditionalGeneration, *, learning_rate: float, projector_learning_rate: float
) -> list[dict[str, object]]:
    """Optimizer groups, the LoRA group (if any) first: its learning rate is the one that is logged."""
    projector = [parameter for _, parameter in projector_parameters(llava_of(model))]
    groups: list[dict[str, object]] = [{"params": projector, "lr": projector_learning_rate, "name": "projector"}]
    lora = lora_parameters(model)
    if lora:
        groups.insert(0, {"params": lora, "lr": learning_rate, "name": "lora"})
    return groups


def freeze_all(model: nn.Module) -> None:
    """Nothing requires grad: the state in which a trainer may be constructed around the model.

    TRL casts what requires grad to bf16 in its constructor (sft_trainer.py), and in bf16 small updates vanish.
    """
    model.requires_grad_(False)


def unfreeze(model: PeftModel | LlavaForConditionalGeneration) -> int:
    """Let projector and LoRA learn; returns how many numbers that is.

    Raises:
        ModelError: one of them is not fp32.
    """
    parameters = [p for _, p in projector_parameters(llava_of(model))] + lora_parameters(model)
    for parameter in parameters:
        if str(parameter.dtype) != "torch.float32":
            raise ModelError(f"a trained parameter is {parameter.dtype}, not float32; updates would be rounded away")
        parameter.requires_grad_(True)
    return sum(parameter.numel() for parameter in parameters)
