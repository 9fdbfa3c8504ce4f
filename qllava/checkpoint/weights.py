"""The weights a stage trains, on disk: `projector.safetensors`, and PEFT's own adapter files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from qllava.errors import RunError

PROJECTOR_FILE = "projector.safetensors"
ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


def llava_of(model: PeftModel | LlavaForConditionalGeneration) -> LlavaForConditionalGeneration:
    """The LLaVA model itself, with or without an adapter around it."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(inner, LlavaForConditionalGeneration):
        raise TypeError(f"expected a LLaVA model, got {type(inner).__name__}")
    return inner


def save_trained(model: PeftModel | LlavaForConditionalGeneration, folder: Path) -> None:
    """Write the fp32 projector and, where there is one, the adapter, into an existing folder."""
    projector = llava_of(model).model.multi_modal_projector
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in projector.state_dict().items()}
    save_file(tensors, folder / PROJECTOR_FILE, metadata={"format": "pt"})
    if isinstance(model, PeftModel):
        state = {k: v.detach().cpu().contiguous() for k, v in get_peft_model_state_dict(model).items()}
        save_file(state, folder / ADAPTER_FILE, metadata={"format": "pt"})
        model.peft_config["default"].save_pretrained(folder)


def load_trained(model: PeftModel | LlavaForConditionalGeneration, folder: Path) -> None:
    """Load what `save_trained` wrote, strictly: every key must be there and fit.

    Raises:
        RunError: a file is missing, damaged or of another model.
    """
    load_projector(llava_of(model), folder)
    if isinstance(model, PeftModel):
        state = _read(folder / ADAPTER_FILE)
        expected = get_peft_model_state_dict(model)
        _check_keys(folder / ADAPTER_FILE, expected, state)
        set_peft_model_state_dict(model, state)


def load_projector(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Load the projector alone, strictly, in place (an optimizer that holds its parameters keeps them).

    Raises:
        RunError: as `load_trained`.
    """
    path = folder / PROJECTOR_FILE
    state = _read(path)
    projector = model.model.multi_modal_projector
    _check_keys(path, projector.state_dict(), state)
    projector.load_state_dict(state)


def _read(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise RunError(f"{path} is missing; the run cannot be used without it")
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is damaged ({error}); restore it or train again with --new") from error


def _check_keys(path: Path, expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> None:
    for name in sorted(expected.keys() ^ found.keys()):
        where = "lacks" if name in expected else "has an unknown"
        raise RunError(f"{path} {where} {name}; it belongs to another model")
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            raise RunError(
                f"{path}: {name} is {tuple(found[name].shape)}, the model wants {tuple(tensor.shape)}; "
                "another language model, tower or LoRA rank"
            )
