"""Many pictures looked at in parallel: are they there, inside the image folder, and readable to their end?"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from qllava.files import sha256
from qllava.pictures import PictureError, check_header, open_image, resolve_image

# Pictures that a quick look decodes: some 10 s on two cores.
LOOK_AT_PICTURES = 1000
# Handed to the threads at a time, so that a hundred thousand names make no hundred thousand futures.
_AT_ONCE = 256
_TAIL = 4096

Failure = tuple[str, str]
"""(reason, message)"""


@dataclass(frozen=True)
class PictureLook:
    """What was found.

    Attributes:
        failed: reason and message of each picture that cannot be used.
        broken: those of them that only decoding showed.
        decoded: how many were read to their end, or tried.
        sizes: bytes of each picture's file.
        stamp: a hash over names, sizes and times; changes when a file does.
    """

    failed: dict[str, Failure]
    broken: frozenset[str]
    decoded: int
    sizes: dict[str, int]
    stamp: str


def look_at_pictures(
    root: Path, names: Sequence[str], *, decode: int, progress: Callable[[int, int], None] | None = None
) -> PictureLook:
    """Look for every picture and read its header; decode some.

    Args:
        root: the image folder.
        names: of a data set, each once.
        decode: how many to read to their end, at even distances.
        progress: told (done, of how many).
    """
    stride = max(1, -(-len(names) // decode)) if decode else 0
    failed: dict[str, Failure] = {}
    broken: set[str] = set()
    sizes: dict[str, int] = {}
    jobs = ((root, name, bool(stride) and number % stride == 0) for number, name in enumerate(names))
    # One filter around all threads: Python's warning filters belong to the process, and each picture sets its own.
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(_threads()) as pool:
        done = 0
        for chunk in _chunks(jobs):
            for (_, name, _), (failure, was_decoded, size) in zip(chunk, pool.map(_look, chunk), strict=True):
                sizes[name] = size
                if failure is not None:
                    failed[name] = failure
                    broken |= {name} if was_decoded else set()
            done += len(chunk)
            if progress is not None:
                progress(done, len(names))
    decoded = len(range(0, len(names), stride)) if stride else 0
    return PictureLook(failed, frozenset(broken), decoded, sizes, pictures_stamp(root, names))


def pictures_stamp(root: Path, names: Iterable[str]) -> str:
    """A hash over names, sizes and times of pictures, in any order; what is not there counts, too."""
    total = 0
    for name in names:
        try:
            status = os.stat(root / name)  # noqa: PTH116 - half the time of Path.stat, for 300,000 files
            entry = f"{name}\0{status.st_size}\0{status.st_mtime_ns}"
        except (OSError, ValueError):
            entry = name
        total += int.from_bytes(hashlib.blake2b(entry.encode(), digest_size=16).digest())
    return f"{total % (1 << 128):032x}"


def same_pictures(root: Path, names: Sequence[str], look: PictureLook, held_out: Sequence[str]) -> dict[str, str]:
    """Name -> held-out name, for the pictures that are held out under this or another name.

    Contents are compared only where the size is the same, first the last 4 kB, then all by hash.
    """
    found = {name: name for name in set(held_out) & set(names)}
    by_size: dict[int, list[str]] = {}
    for other in set(held_out):
        try:
            by_size.setdefault(resolve_image(root, other).stat().st_size, []).append(other)
        except PictureError:
            continue  # a held-out picture that is not there cannot be trained on either
    for name in names:
        if name in found or name in look.failed:
            continue
        for other in sorted(by_size.get(look.sizes[name], ())):
            if _equal(root, name, other):
                found[name] = other
                break
    return found


def _look(job: tuple[Path, str, bool]) -> tuple[Failure | None, bool, int]:
    """Failure of one picture, whether it was found by decoding, and the size of its file."""
    root, name, decode = job
    size = 0
    headed = False
    try:
        path = resolve_image(root, name)
        size = path.stat().st_size
        check_header(path)
        headed = True
        if decode:
            open_image(path)
    except PictureError as error:
        return (error.reason, str(error)), headed, size
    except OSError as error:  # gone since, or not ours to read
        return ("unreadable", f"image {name} cannot be read ({error.strerror})"), False, size
    return None, False, size


def _equal(root: Path, name: str, other: str) -> bool:
    one, two = resolve_image(root, name), resolve_image(root, other)
    return one == two or (_tail(one) == _tail(two) and sha256(one) == sha256(two))


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        return file.read()


def _chunks(jobs: Iterator[tuple[Path, str, bool]]) -> Iterator[list[tuple[Path, str, bool]]]:
    while chunk := list(islice(jobs, _AT_ONCE)):
        yield chunk


def _threads() -> int:
    """Decoders work outside Python's lock, so threads are enough; each may hold a large picture."""
    return min(8, len(os.sched_getaffinity(0)))
