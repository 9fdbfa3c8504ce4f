"""The run's weights as one plain model, a tensor at a time: LoRA added to the base it was trained against.

That base is the *dequantised* NF4 one. Adding the adapter to the original 16-bit weights instead answers otherwise
(measured on SmolLM2-135M after 20 steps: KL 0.47 against 0.002), and quantising a merged model again loses the
fine-tune (KL 3.0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import LlavaForConditionalGeneration

from qllava.checkpoint.weights import llava_of

ADAPTER = "default"

Base = Callable[[str, nn.Module], torch.Tensor]
"""The base weight of a language-model linear, (out, in), by its name and the module that holds it."""


def dequantised(name: str, layer: nn.Module) -> torch.Tensor:
    """(out, in) the weight that a linear multiplies by, 4-bit or not, in the type it is multiplied in."""
    del name
    weight = layer.get_parameter("weight")
    if not isinstance(layer, Linear4bit):
        return weight.detach()
    full: torch.Tensor = dequantize_4bit(weight.data, layer.weight.quant_state)
    return full


def merged_tensors(
    model: PeftModel | LlavaForConditionalGeneration, base: Base = dequantised
) -> Iterator[tuple[str, torch.Tensor]]:
    """(name in the assembled model, tensor) of the whole model with its adapter merged; fp32 where it was merged.

    Each tensor is made when it is asked for, so that memory holds one of them beside the 4-bit model. A head that is
    tied to the embedding is left out, as stock models do.

    Args:
        model: a trained run's; not changed.
        base: where the weights come from that LoRA is added to.
    """
    llava = llava_of(model)
    tied = bool(llava.config.tie_word_embeddings)
    inside: tuple[str, ...] = ()
    for name, module in llava.named_modules():
        if name.startswith(inside) or (tied and name == "lm_head"):
            continue
        if isinstance(module, LoraLayer):
            inside = (*inside, f"{name}.")
            yield f"{name}.weight", merged_linear(module, base(name, module.get_base_layer()))
            bias = module.get_base_layer().bias
            if bias is not None:
                yield f"{name}.bias", bias.detach()
            continue
        if isinstance(module, Linear4bit):
            yield f"{name}.weight", base(name, module)
            if module.bias is not None:
                yield f"{name}.bias", module.bias.detach()
            continue
        for own, parameter in module.named_parameters(recurse=False):
            yield f"{name}.{own}", parameter.detach()
        for own, buffer in module.named_buffers(recurse=False):
            if own not in module._non_persistent_buffers_set:
                yield f"{name}.{own}", buffer


def merged_linear(layer: LoraLayer, base: torch.Tensor) -> torch.Tensor:
    """(out, in) fp32: base + scaling x B A, the sum that a forward pass of the run computes."""
    down, up = layer.lora_A[ADAPTER].weight.detach().float(), layer.lora_B[ADAPTER].weight.detach().float()
    return torch.addmm(base.to(down.device).float(), up, down, alpha=float(layer.scaling[ADAPTER]))
