"""Pictures below a folder, found by path or name; nothing is opened, and only folders are looked at one by one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from pathlib import Path

from qllava.errors import DataError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_SEPARATE = "annotations"


def is_picture(name: str) -> bool:
    """Whether a file of this name is a picture, by its suffix; `._a.jpg` and other hidden files are none."""
    return suffix_of(name) in PICTURE_SUFFIXES and not name.rsplit("/", 1)[-1].startswith(".")


def suffix_of(name: str) -> str:
    """`a/b.JPG` -> `.jpg`."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - called for every file, a Path costs ten times as much


def walk(root: Path, leave_out: Path | None = None) -> Iterator[tuple[str, list[str]]]:
    """(folder relative to `root` with `/` at its end or "", its file names) for `root` and what is below it, sorted.

    Hidden folders, `annotations` and the folder `leave_out` are not entered, nor links that lead back up.

    Raises:
        DataError: a folder that cannot be read.
    """
    left = None if leave_out is None else leave_out.resolve()
    for folder, inside, names in os.walk(root, followlinks=True, onerror=_unreadable):
        here = Path(folder)
        inside[:] = sorted(
            name for name in inside if not name.startswith(".") and name != _SEPARATE and not _leads_back(here, name)
        )
        if left is not None and here.resolve() == left:
            inside.clear()
            continue
        relative = here.relative_to(root).as_posix()
        yield "" if relative == "." else f"{relative}/", sorted(names)


class Pictures:
    """The pictures below a folder: `paths` relative to it, and `folders` all names of folders on the way to them."""

    def __init__(self, root: Path, leave_out: Path | None = None) -> None:
        self.root = root
        self.paths: set[str] = set()
        self.folders: set[str] = set()
        self._by_name: dict[str, str | None] | None = None
        self._above = f"{root.resolve().as_posix()}/"
        for prefix, names in walk(root, leave_out):
            self.folders.update(prefix.split("/")[:-1])
            self.paths.update(f"{prefix}{name}" for name in names if is_picture(name))

    def named(self, name: str) -> str | None:
        """The only picture with this file name, or None where there is none or several."""
        if self._by_name is None:
            self._by_name = {}
            for path in self.paths:
                file_name = path.rsplit("/", 1)[-1]
                self._by_name[file_name] = None if file_name in self._by_name else path
        return self._by_name.get(name)

    def find(self, listed: str) -> str | None:
        """The picture that a table means, or None.

        Its path from the folder or from `images/` in it; a path from elsewhere (`/old/place/val/1.jpg`) without its
        first folders, as long as none of those is here, too; a mere file name anywhere, if it is unique.
        """
        name = normal(listed).removeprefix(self._above).lstrip("/")
        if "/" not in name:
            return name if name in self.paths else self.named(name)
        while True:
            for path in (name, f"images/{name}"):
                if path in self.paths:
                    return path
            first, slash, rest = name.partition("/")
            if not slash or first in self.folders:
                return None
            name = rest


def normal(name: str) -> str:
    r"""`.\a\b.jpg` -> `a/b.jpg`."""
    plain = name.strip().replace("\\", "/")
    while plain.startswith("./"):
        plain = plain[2:]
    return plain


def listing(folder: Path) -> tuple[Set[str], Set[str]]:
    """(file names, folder names) directly in a folder, without the hidden ones.

    Raises:
        DataError: it cannot be read.
    """
    files: set[str] = set()
    folders: set[str] = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    (folders if entry.is_dir() else files).add(entry.name)
    except OSError as error:
        _unreadable(error)
    return files, folders


def _leads_back(folder: Path, name: str) -> bool:
    path = folder / name
    return path.is_symlink() and folder.resolve().is_relative_to(path.resolve())


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror}; give yourself access to it") from None
