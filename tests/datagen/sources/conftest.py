"""Pictures and archives made in the test."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Touch = Callable[..., Path]
WriteTar = Callable[[Path, Mapping[str, bytes]], Path]


@pytest.fixture
def touch(tmp_path: Path) -> Touch:
    """Make files of a few bytes below a folder; their contents are their names."""

    def make(folder: str, *names: str) -> Path:
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
        return tmp_path / folder

    return make


@pytest.fixture
def write_tar() -> WriteTar:
    """Write a real tar with these members."""

    def make(path: Path, members: Mapping[str, bytes]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as file:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size, member.mtime = len(content), 1_700_000_000
                file.addfile(member, io.BytesIO(content))
        return path

    return make
