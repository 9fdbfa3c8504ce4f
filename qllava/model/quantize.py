"""NF4 for the language model's linears, and the audits that prove nothing else was touched.

QLoRA (Dettmers et al. 2023, section 3): 4-bit NormalFloat, double quantisation.
"""

from __future__ import annotations

import torch
from bitsandbytes.nn import Linear4bit
from torch import nn
from transformers import BitsAndBytesConfig

from qllava.errors import ModelError

LANGUAGE_MODEL = "model.language_model."


def nf4_config(compute: torch.dtype) -> BitsAndBytesConfig:
    """The quantisation of a language model loaded on its own, where `lm_head` is the only linear to leave alone.

    bitsandbytes' own default computes in fp32 everywhere, so `compute` is always said (see `model/precision.py`).
    """
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        # A list of one's own replaces the defaults, so everything is named. The names are those of the assembled
        # model as well: the config travels with it.
        llm_int8_skip_modules=["lm_head", "model.vision_tower", "model.multi_modal_projector"],
    )


def keep_autograd(model: nn.Module) -> None:
    """Forbid bitsandbytes the fused CPU kernel that has no backward.

    On CPUs with AVX512-BF16, one forward in eval mode without grad repacks `Linear4bit` weights in place for a kernel
    that autograd does not know (bitsandbytes/nn/modules.py); training afterwards would run with wrong gradients.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def compute_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Give a quantised model another compute type, in place: codes stay, everything else is converted."""
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.weight.quant_state.dtype = module.compute_dtype = dtype
            if module.bias is not None:
                module.bias.data = module.bias.data.to(dtype)
            continue
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)


def audit_quantization(model: nn.Module, *, quantized: bool, compute: torch.dtype) -> int:
    """Check an assembled model: all the language model's linears are NF4 (or none), and nothing else is.

    Returns: how many linears are quantised.

    Raises:
        ModelError: names the first offender.
    """
    count = 0
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            if not name.startswith(LANGUAGE_MODEL):
                raise ModelError(f"{name} was quantised; only linears under {LANGUAGE_MODEL} may be")
            if module.weight.quant_type != "nf4" or module.compute_dtype != compute:
                raise ModelError(
                    f"{name} is {module.weight.quant_type}/{module.compute_dtype}, not nf4 computing in {compute}"
                )
            count += 1
        elif quantized and isinstance(module, nn.Linear) and name.startswith(LANGUAGE_MODEL):
            raise ModelError(
                f"{name} was left in {module.weight.dtype}; every linear under {LANGUAGE_MODEL} must be NF4"
            )
    if quantized and count == 0:
        raise ModelError("no linear was quantised; the language model has no nn.Linear under model.language_model")
    return count
