"""Safetensors files of bounded size with their index, as `save_pretrained` lays them out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file

SHARD_BYTES = 2 << 30
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def write_shards(tensors: Iterable[tuple[str, torch.Tensor]], folder: Path, *, shard_bytes: int = SHARD_BYTES) -> int:
    """Write tensors as they come; memory holds one file's worth.

    Args:
        tensors: (name, tensor), each name once.
        folder: exists; gets `model.safetensors`, or several files and their index.
        shard_bytes: of one file at most; a larger tensor has a file of its own.

    Returns:
        Bytes of all tensors.
    """
    parts: list[list[str]] = []
    waiting: dict[str, torch.Tensor] = {}
    total = size = numbers = 0

    def flush() -> None:
        path = folder / f"part-{len(parts):05d}"
        save_file(waiting, path, metadata={"format": "pt"})
        path.chmod(0o644)  # safetensors makes files that nobody else may read
        parts.append(list(waiting))
        waiting.clear()

    for name, tensor in tensors:
        whole = tensor.detach().cpu().contiguous()
        if waiting and size + whole.nbytes > shard_bytes:
            flush()
            size = 0
        waiting[name] = whole
        size += whole.nbytes
        total += whole.nbytes
        numbers += whole.numel()
    flush()
    if len(parts) == 1:
        (folder / "part-00000").rename(folder / SINGLE)
        return total
    places: dict[str, str] = {}
    for index, names in enumerate(parts):
        file = f"model-{index + 1:05d}-of-{len(parts):05d}.safetensors"
        (folder / f"part-{index:05d}").rename(folder / file)
        places.update(dict.fromkeys(names, file))
    content = {"metadata": {"total_size": total, "total_parameters": numbers}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return total


def shard_files(folder: Path) -> list[Path]:
    """The weight files of a folder, sorted."""
    return sorted(folder.glob("model*.safetensors"))
