"""A disk that is full is news: the last checkpoint stays, training goes on, the next save tries again."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from qllava.checkpoint.saved import best_checkpoint, checkpoint_folders, verify
from qllava.errors import RunError
from qllava.train.saving import Saver, writing_results
from tests.train.workspace import SilentView


class ListeningView(SilentView):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def note(self, name: str, value: object, why: str = "", flag: str = "") -> None:
        self.lines.append(f"{name} {value} ({why}; {flag})")


def make_saver(run: Path, view: ListeningView, saved: list[int], **changes: object) -> Saver:
    settings = {"keep": 2, "every": 2, "total": 10, "trained": 100, "heldout_loss": None, **changes}
    return Saver(run, view=view, saved=saved.append, **settings)  # type: ignore[arg-type]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill_safetensors(folder: Path) -> None:
    save_file({"weight": torch.zeros(100_000)}, folder / "projector.safetensors")


def fill_torch(folder: Path) -> None:
    torch.save({"state": torch.zeros(100_000)}, folder / "optimizer.pt")


def fill_plain(folder: Path) -> None:
    (folder / "log").write_bytes(bytes(400_000))


@pytest.mark.parametrize("fill", [fill_safetensors, fill_torch, fill_plain])
def test_a_write_that_fails_keeps_what_is_there(tmp_path: Path, fill: object) -> None:
    view, saved = ListeningView(), list[int]()
    saver = make_saver(tmp_path, view, saved)
    with file_size_limit(50_000):
        assert not saver.save(2, fill, {})  # type: ignore[arg-type]
    assert "there is none yet; training goes on, next try at step 4; free some space" in view.lines[-1]
    assert saver.save(4, fill, {})  # type: ignore[arg-type]
    with file_size_limit(50_000):
        assert not saver.save(6, fill, {})  # type: ignore[arg-type]
        assert saver.failure is not None
    assert view.lines[-1].startswith("NOT SAVED checkpoint of step 6 (")
    assert "step 4 is kept; training goes on, next try at step 8; free some space" in view.lines[-1]
    (kept,) = checkpoint_folders(tmp_path)
    assert verify(kept).step == saver.last_step() == 4
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000004"]
    assert saver.save(8, fill, {})  # type: ignore[arg-type]
    assert saver.failure is None
    assert saved == [4, 8]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small tmpfs")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=False)
    if mounted.returncode != 0:
        pytest.skip("a small tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_low_disk_is_noticed_before_anything_is_written(small_disk: Path) -> None:
    view, saved = ListeningView(), list[int]()
    saver = make_saver(small_disk, view, saved, trained=2**20 // 12)
    saver.warn_if_tight()
    assert view.lines[-1].startswith("LOW DISK 4.0 MiB free (this run's checkpoints need ")
    assert view.lines[-1].endswith("free space, or keep fewer; --keep)")
    # The first one takes more than was expected: the disk itself says no.
    assert not saver.save(2, lambda folder: _write(folder, 5 * 2**20), {})
    assert "No space left on device; there is none yet" in view.lines[-1]
    assert saver.save(4, lambda folder: _write(folder, 2**21), {})
    written = list[Path]()
    assert not saver.save(6, written.append, {})
    assert written == []
    assert "the disk is too full for 2.0 MiB: 1.2 MiB more are needed; step 4 is kept" in view.lines[-1]
    assert verify(checkpoint_folders(small_disk)[-1]).step == 4
    assert saved == [4]


def _write(folder: Path, size: int) -> None:
    (folder / "weights").write_bytes(bytes(size))


def test_room_enough_is_not_mentioned(tmp_path: Path) -> None:
    view = ListeningView()
    make_saver(tmp_path, view, []).warn_if_tight()
    assert view.lines == []


def test_a_manifest_that_cannot_be_written_is_not_a_lost_checkpoint(tmp_path: Path) -> None:
    view = ListeningView()

    def fail(step: int) -> None:
        raise OSError(28, "No space left on device")

    settings = {"keep": 1, "every": 2, "total": 10, "trained": 1, "heldout_loss": None}
    saver = Saver(tmp_path, view=view, saved=fail, **settings)  # type: ignore[arg-type]
    saver.save(2, fill_plain, {})
    assert view.lines == ["checkpoint step 2 is saved (but tidying up failed: No space left on device; )"]
    assert saver.last_step() == 2


def test_the_best_stays_and_is_said(tmp_path: Path) -> None:
    view, losses = ListeningView(), iter([2.0, 1.0, 1.5, 1.25])
    saver = make_saver(tmp_path, view, [], keep=1, heldout_loss=lambda: next(losses))
    for step in (2, 4, 6, 8):
        assert saver.save(step, fill_plain, {})
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == ["step-000004", "step-000008"]
    best = best_checkpoint(tmp_path)
    assert best is not None
    assert best.heldout_loss == 1.0
    assert view.lines[1] == "held-out loss 1.000 at step 4 (the best so far; )"
    assert view.lines[3] == "held-out loss 1.250 at step 8 (best 1.000 at step 4; )"


def test_results_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match=r"could not be written \(File too large\); free some space and repeat `again`"),
        file_size_limit(50_000),
        writing_results(tmp_path, "again"),
    ):
        fill_safetensors(tmp_path)
    with pytest.raises(TypeError), writing_results(tmp_path, "again"):
        raise TypeError("a bug stays a bug")
