"""Where the rows of a JSON file lie and which share pictures, kept between runs.

Reading 665,000 rows takes half a minute, and nothing changes while the file does not: the index is kept under the
file's content hash (and the hash of the rules it was read by), so a changed file is read again wherever it lies. It is
loaded memory-mapped; deleting the folder costs one more reading.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qllava.files import sha256, write_json

UNREADABLE = -2


@dataclass(frozen=True)
class RowIndex:
    """Every row of a file.

    Attributes:
        starts, stops: (rows,) the bytes [start, stop) of each.
        groups: (rows,) equal numbers share their pictures, counted in order of appearance; -1 is text only,
            `UNREADABLE` a row that does not fit the schema.
        names: all pictures in order of appearance, or the file that lists them.
    """

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    groups: NDArray[np.int64]
    names: tuple[str, ...] | Path

    def pictures(self) -> Sequence[str]:
        """The names of all pictures, each once."""
        if isinstance(self.names, Path):
            listed: list[str] = json.loads(self.names.read_text(encoding="utf-8"))
            return listed
        return self.names


def numbered(spans: RowIndex, images: Iterable[tuple[str, ...] | None]) -> RowIndex:
    """The index with its groups, from the pictures of each row (None: it cannot be read)."""
    numbers: dict[tuple[str, ...], int] = {}
    groups = np.fromiter(
        (UNREADABLE if row is None else numbers.setdefault(row, len(numbers)) if row else -1 for row in images),
        dtype=np.int64,
        count=len(spans.starts),
    )
    names = dict.fromkeys(name for row in numbers for name in row)
    return RowIndex(spans.starts, spans.stops, groups, tuple(names))


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
    whole = table.dtype == np.int64 and table.ndim == 2 and len(table) == 3 and _names(path).is_file()
    return RowIndex(table[0], table[1], table[2], _names(path)) if whole else None


def save_index(path: Path, index: RowIndex) -> None:
    """Keep an index, atomically; without a place to write it, the file is merely checked again next time."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(_names(path), list(index.pictures()))  # first: an index without names is none
        with aside.open("wb") as file:
            np.save(file, np.stack([index.starts, index.stops, index.groups]))
        aside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink()


def _names(path: Path) -> Path:
    return path.with_suffix(".pictures.json")


@cache
def _rules() -> str:
    """Short hash of the code that checks rows: an index made by other rules is not used."""
    digest = hashlib.sha256()
    for name in ("rows.py", "formats.py", "json_spans.py", "row_index.py"):
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:12]
