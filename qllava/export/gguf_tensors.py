"""The last part of a GGUF file: its tensors, after all keys are set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gguf import GGUFWriter
from numpy.typing import NDArray


def write_tensors(writer: GGUFWriter, tensors: Iterable[tuple[str, NDArray[Any]]]) -> int:
    """Write header, keys and `tensors` (llama.cpp's name, array), close the file; returns the tensors' bytes."""
    size = 0
    for name, array in tensors:
        writer.add_tensor(name, array)
        size += array.nbytes
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return size
