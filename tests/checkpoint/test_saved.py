"""Checkpoints: every changed bit is found, the newest whole one is used, the best one stays."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from qllava.checkpoint.saved import (
    CHECKPOINTS,
    SEAL,
    DamagedError,
    best_checkpoint,
    checkpoint_folders,
    checkpoint_name,
    read_seal,
    rotate,
    seal,
    settle,
    verify,
)


def make(run: Path, step: int, **facts: object) -> Path:
    folder = run / CHECKPOINTS / checkpoint_name(step)
    folder.mkdir(parents=True)
    (folder / "projector.safetensors").write_bytes(random.Random(step).randbytes(900))
    (folder / "optimizer.pt").write_bytes(random.Random(-step).randbytes(700))
    seal(folder, step, {"token_budget": 64, "rejected": {"a": "too long"}, **facts})
    return folder


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / CHECKPOINTS).iterdir())


def test_every_bit_counts_in_the_seal_and_in_the_files(tmp_path: Path) -> None:
    folder = make(tmp_path, 4, heldout_loss=1.25)
    assert verify(folder).facts == {"token_budget": 64, "rejected": {"a": "too long"}, "heldout_loss": 1.25}
    rng = random.Random(0)
    for path in folder.iterdir():
        content = path.read_bytes()
        bits = range(len(content) * 8)
        for bit in rng.sample(bits, 1500 if path.name == SEAL else 60):
            changed = bytearray(content)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            with pytest.raises(DamagedError):
                read_seal(folder) if path.name == SEAL else verify(folder)
        path.write_bytes(content)
    verify(folder)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / SEAL).unlink(), r"checkpoint.json is missing"),
        (lambda folder: (folder / SEAL).write_text("[]"), r"checkpoint.json cannot be read"),
        (lambda folder: (folder / "optimizer.pt").unlink(), r"optimizer.pt is missing"),
        (lambda folder: (folder / "optimizer.pt").write_bytes(b""), r"optimizer.pt differs from what was written"),
        (lambda folder: (folder / "scaler.pt").write_bytes(b"x"), r"scaler.pt does not belong there"),
        (lambda folder: (folder / "pytorch_model_fsdp_0").mkdir(), r"pytorch_model_fsdp_0 does not belong there"),
        (
            lambda folder: (folder / SEAL).write_text((folder / SEAL).read_text().replace("64", "65")),
            r"checkpoint.json differs from what was written",
        ),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: object, reason: str) -> None:
    folder = make(tmp_path, 4)
    damage(folder)  # type: ignore[operator]
    with pytest.raises(DamagedError, match=reason):
        verify(folder)


def test_another_steps_checkpoint_is_not_this_one(tmp_path: Path) -> None:
    folder = make(tmp_path, 4)
    moved = folder.rename(folder.with_name(checkpoint_name(6)))
    with pytest.raises(DamagedError, match=r"checkpoint.json is that of step 4"):
        read_seal(moved)


def test_the_newest_whole_one_is_found_and_damaged_ones_move_aside(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        make(tmp_path, step)
    for step in (4, 6):
        (tmp_path / CHECKPOINTS / checkpoint_name(step) / "optimizer.pt").write_bytes(b"half")
    half_written = tmp_path / CHECKPOINTS / ".step-000008.123.tmp"
    half_written.mkdir()
    (half_written / "optimizer.pt").write_bytes(b"x")
    (tmp_path / ".manifest.json.123.tmp").write_text("x")
    settled = settle(tmp_path)
    assert settled.newest is not None
    assert settled.newest.step == 2
    assert [(path.name, reason, aside.name) for path, reason, aside in settled.damaged] == [
        ("step-000006", "optimizer.pt differs from what was written", "damaged-step-000006"),
        ("step-000004", "optimizer.pt differs from what was written", "damaged-step-000004"),
    ]
    assert names(tmp_path) == ["damaged-step-000004", "damaged-step-000006", "step-000002"]
    assert not list(tmp_path.glob(".*"))
    make(tmp_path, 4)
    (tmp_path / CHECKPOINTS / "step-000004" / SEAL).unlink()
    assert settle(tmp_path).damaged[0][2].name == "damaged-step-000004-2"


def test_none_is_left_when_all_are_damaged(tmp_path: Path) -> None:
    assert settle(tmp_path).newest is None
    shutil.rmtree(make(tmp_path, 2))
    (tmp_path / CHECKPOINTS / "step-000002").mkdir()
    assert settle(tmp_path).newest is None
    assert names(tmp_path) == ["damaged-step-000002"]


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    losses = {1: 3.0, 2: 1.5, 3: float("nan"), 4: 1.5, 5: 2.0, 1000000: 2.5}
    for step, loss in losses.items():
        make(tmp_path, step, heldout_loss=loss)
    best = best_checkpoint(tmp_path)
    assert best is not None
    assert (best.step, best.heldout_loss) == (2, 1.5)
    assert rotate(tmp_path, 2) == [1, 3, 4]
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == ["step-000002", "step-000005", "step-1000000"]
    assert rotate(tmp_path, 3) == []


def test_without_held_out_samples_only_the_newest_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        make(tmp_path, step)
    assert best_checkpoint(tmp_path) is None
    assert rotate(tmp_path, 1) == [1, 2]
    assert names(tmp_path) == ["step-000003"]


def test_the_seal_is_plain_json(tmp_path: Path) -> None:
    content = json.loads((make(tmp_path, 4) / SEAL).read_text())
    assert content["step"] == 4
    assert sorted(content["files"]) == ["optimizer.pt", "projector.safetensors"]
