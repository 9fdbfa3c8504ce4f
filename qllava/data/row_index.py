"""Where the rows of a checked JSON file lie and which share pictures, kept between runs.

Checking 665,000 rows takes half a minute, and nothing changes while the file does not: the index is kept under the
file's content hash (and the hash of the rules it was checked by), so a changed file is checked again wherever it lies.
It is read back memory-mapped; deleting the folder costs one more check.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qllava.files import sha256
from qllava.types import Conversation


@dataclass(frozen=True)
class RowIndex:
    """Every row of a file.

    Attributes:
        starts, stops: (rows,) the bytes [start, stop) of each.
        groups: (rows,) equal numbers share their pictures, counted in order of appearance; -1 is text only.
    """

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    groups: NDArray[np.int64]


def build_index(rows: Iterable[tuple[int, int, Conversation]]) -> RowIndex:
    """The index of (start, stop, conversation) triples."""
    numbers: dict[tuple[str, ...], int] = {}
    table = np.array(
        [
            (start, stop, numbers.setdefault(row.images, len(numbers)) if row.images else -1)
            for start, stop, row in rows
        ],
        dtype=np.int64,
    ).reshape(-1, 3)
    return RowIndex(*np.ascontiguousarray(table.T))


def cache_root() -> Path:
    """`$QLLAVA_CACHE`, else `~/.cache/qllava`: where converted models are too."""
    configured = os.environ.get("QLLAVA_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "qllava"


def index_path(source: Path) -> Path:
    """Where the index of a file's present contents is kept."""
    return cache_root() / "rows" / f"{sha256(source)}{source.suffix}-{_rules()}.npy"


def load_index(path: Path) -> RowIndex | None:
    """Read an index memory-mapped; None where there is none, or a damaged one."""
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return RowIndex(*table) if table.dtype == np.int64 and table.ndim == 2 and len(table) == 3 else None


def save_index(path: Path, index: RowIndex) -> None:
    """Keep an index, atomically; without a place to write it, the file is merely checked again next time."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            np.save(file, np.stack([index.starts, index.stops, index.groups]))
        aside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink()


@cache
def _rules() -> str:
    """Short hash of the code that checks rows: an index made by other rules is not used."""
    digest = hashlib.sha256()
    for name in ("rows.py", "formats.py", "row_index.py"):
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:12]
