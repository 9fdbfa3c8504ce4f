"""One dtype policy: fp32 masters for what learns, and a compute type that is fast on the device.

On CUDA everything frozen is bf16 (or NF4 with bf16 compute) and forwards run under bf16 autocast. On a processor bf16
pays only where it has AMX tiles; elsewhere fp32 is exact and faster (measured on an AVX512-BF16 Xeon without AMX,
SmolLM2-135M in NF4 with LoRA r 64, 609 packed tokens, one thread: a step 4.5 s of processor time in fp32, 7.7 s in
bf16). Either way the NF4 codes are the same (`build.load_language_model`).
"""

from __future__ import annotations

import contextlib

import torch


def compute_dtype(device: str) -> torch.dtype:
    """bf16 on CUDA and on processors with AMX, else fp32; depends on the machine alone, so a resumed run agrees."""
    if not device.startswith("cpu") or torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32


def autocast(device: str) -> contextlib.AbstractContextManager[object]:
    """The context every forward of ours runs in: matrix products in `compute_dtype` over fp32 masters."""
    dtype = compute_dtype(device)
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device_type=device.split(":", maxsplit=1)[0], dtype=dtype)
