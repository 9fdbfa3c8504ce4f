"""In which type a device computes, and what that makes a backward pass keep; worked out without torch.

The rule is `qllava.model.precision`'s: bf16 on CUDA and on processors with AMX tiles, else fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Arithmetic:
    """A compute type.

    Attributes:
        name: `bf16` or `fp32`.
        element: bytes of a number in it.
        dropout_mask: bytes that dropout keeps a number beside its result: CUDA a bool, a processor the noise itself.
        recast: whether every LoRA matrix keeps an input of its own. PEFT casts inputs to its fp32 masters unless CUDA's
            autocast is on (peft/tuners/lora/bnb.py, `requires_conversion`); autocast casts each of them back.
    """

    name: str
    element: int
    dropout_mask: int
    recast: bool


CUDA = Arithmetic("bf16", 2, 1, recast=False)
FP32_PROCESSOR = Arithmetic("fp32", 4, 4, recast=False)
BF16_PROCESSOR = Arithmetic("bf16", 2, 4, recast=True)


def arithmetic(*, cuda: bool) -> Arithmetic:
    """What training computes in on a card, or on this machine's processor."""
    if cuda:
        return CUDA
    return BF16_PROCESSOR if processor_has_amx() else FP32_PROCESSOR


@cache
def processor_has_amx(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has AMX tiles, in which bf16 pays. Source: proc(5)."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return "amx_tile" in flags.split()
