"""The NVIDIA card as training finds it: how its memory is handed out, capped, and who else holds some.

Imports no torch at module level: the allocator's setting has to be there before torch first uses CUDA.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from collections.abc import MutableMapping
from typing import NamedTuple

from qllava.plan.device import GIB
from qllava.plan.memory import CONTEXT_GIB, MARGIN_GIB

# torch reads the first of these that is set (c10/cuda/CUDAAllocatorConfig.h); a user's own value is kept.
ALLOCATOR = "PYTORCH_CUDA_ALLOC_CONF"
_NEWER_NAME = "PYTORCH_ALLOC_CONF"
# What a card's driver keeps of the size on the box: an RTX 4090 "24 GB" shows 23.6 GiB.
_SHOWN = 0.983
_MIB = 2**20


class Holder(NamedTuple):
    """A program that holds memory of the card; `held` in bytes, None where the driver does not say."""

    pid: int
    name: str
    held: int | None

    def __str__(self) -> str:
        held = "" if self.held is None else f" {self.held / GIB:.1f} GiB"
        return f"{self.name.rsplit('/', 1)[-1]} (pid {self.pid}){held}"


def use_expandable_segments(environ: MutableMapping[str, str] | None = None) -> None:
    """Let torch grow its segments: packs differ in length, and fixed segments leave gaps that no other length fits."""
    environ = os.environ if environ is None else environ
    if ALLOCATOR not in environ and _NEWER_NAME not in environ:
        environ[ALLOCATOR] = "expandable_segments:True"


def torch_bytes(vram_gib: float) -> int:
    """Bytes that torch may take so that everything fits a card sold with `vram_gib`.

    The context lies outside torch's own count, and the margin is left to the desktop.
    """
    return int((vram_gib * _SHOWN - CONTEXT_GIB - MARGIN_GIB) * GIB)


def cap_card(vram_gib: float) -> int | None:
    """Keep torch on the visible card below `torch_bytes(vram_gib)`; the bytes, or None where the card is smaller."""
    import torch  # noqa: PLC0415

    total = torch.cuda.get_device_properties(0).total_memory
    limit = torch_bytes(vram_gib)
    if limit >= total:
        return None
    torch.cuda.set_per_process_memory_fraction(limit / total)
    return limit


def other_holders(own_pid: int | None = None) -> list[Holder]:
    """Other programs that nvidia-smi sees on the cards, largest first; empty where it does not answer."""
    program = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path="/usr/lib/wsl/lib")
    if program is None:
        return []
    command = [program, "--query-compute-apps=pid,process_name,used_memory", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_holders(answer, own_pid=os.getpid() if own_pid is None else own_pid)


def parse_holders(answer: str, *, own_pid: int) -> list[Holder]:
    """Read nvidia-smi's CSV (pid, name, MiB); lines it cannot read are left out, and so is `own_pid`."""
    holders = []
    for row in csv.reader(answer.splitlines(), skipinitialspace=True):
        if len(row) != 3 or not row[0].isdigit() or int(row[0]) == own_pid:
            continue
        # Inside a container or on WSL the driver hides the size: "[N/A]".
        held = int(row[2]) * _MIB if row[2].strip().isdigit() else None
        holders.append(Holder(int(row[0]), row[1].strip(), held))
    return sorted(holders, key=lambda holder: -(holder.held or 0))
