"""A step that runs out of memory is done again in less room, and ends as if that room had been there from the start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qllava.checkpoint.manifest import Run
from qllava.errors import DeviceError
from qllava.train import steps, trainer
from qllava.train.recovery import is_out_of_memory
from qllava.train.room import Room, smaller_room
from qllava.train.run import train
from tests.train.workspace import SilentView, make_workspace, request, tiny_recipe

FIGURES = ("loss", "token_accuracy", "grad_norm", "tokens", "packs", "token_budget", "learning_rate")


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A workspace with a finished align run."""
    workspace = make_workspace(tmp_path_factory.mktemp("aligned"))
    return workspace, train(request(workspace, "align"), SilentView()).run


def fail_at(number: int, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> list[int]:
    """Let the `number`-th pack of the run fail after its forward pass, as a full card does; the packs seen."""
    real, seen = trainer.loss_sum, list[int]()

    def loss_sum(model: Any, pack: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(len(pack["input_ids"]))
        result = real(model, pack)  # draws dropout's random numbers
        if len(seen) == number:
            raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return result

    monkeypatch.setattr(trainer, "loss_sum", loss_sum)
    return seen


def run_in(
    aligned: tuple[Path, Run], room: Room, monkeypatch: pytest.MonkeyPatch, *, workers: int = 0
) -> tuple[Run, SilentView, list[dict[str, Any]]]:
    workspace, source = aligned
    monkeypatch.setattr(steps, "planned_room", lambda plan, recipe: room)
    # Dropout, so that the random numbers matter.
    recipe = tiny_recipe(workspace, lora={"rank": 4, "dropout": 0.2}, data={"max_length": 256, "workers": workers})
    view = SilentView()
    run = train(request(workspace, "finetune", source=source, recipe=recipe, new=True), view).run
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return run, view, [{name: row[name] for name in FIGURES} for row in rows]


def assert_same_weights(one: Run, other: Run) -> None:
    for file in ("projector.safetensors", "adapter_model.safetensors"):
        for (name, tensor), expected in zip(
            load_file(one.folder / file).items(), load_file(other.folder / file).values(), strict=True
        ):
            assert torch.equal(tensor, expected), (file, name)


def _budget_after(tokens: int) -> int:
    room = smaller_room(Room(128, None), tokens=tokens, samples=2)
    assert room is not None
    assert room.token_budget is not None
    return room.token_budget


@pytest.mark.parametrize("workers", [0, 1])
def test_a_step_is_done_again_as_if_the_budget_had_been_smaller(
    aligned: tuple[Path, Run], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = fail_at(2, monkeypatch)
    run, view, rows = run_in(aligned, Room(128, None), monkeypatch, workers=workers)
    smaller = _budget_after(seen[1])
    assert 0 < smaller < seen[1] <= 128
    assert {row["token_budget"] for row in rows} == {smaller}
    assert ("a pack", f"{smaller} tokens, checkpointing off") in view.notes
    assert f"out of memory; the step is done again with {smaller} tokens a pack" in (run.folder / "log.txt").read_text()
    assert json.loads((run.folder / "memory.json").read_text())["room"]["token_budget"] == smaller
    checkpoints = sorted((run.folder / "checkpoints").glob("step-*/checkpoint.json"))
    assert [json.loads(path.read_text())["facts"]["token_budget"] for path in checkpoints] == [smaller] * len(
        checkpoints
    )

    monkeypatch.undo()
    twin, _, expected = run_in(aligned, Room(smaller, None), monkeypatch)
    assert rows == expected
    assert_same_weights(run, twin)


def test_a_sample_alone_is_recomputed_more(aligned: tuple[Path, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs of one sample cannot be cut; checkpointing changes no number."""
    fail_at(3, monkeypatch)
    run, view, rows = run_in(aligned, Room(None, 2), monkeypatch)
    assert ("a pack", "one sample, checkpointing every layer") in view.notes
    monkeypatch.undo()
    twin, _, expected = run_in(aligned, Room(None, 2), monkeypatch)
    assert rows == expected
    assert_same_weights(run, twin)


def test_the_end_of_the_road_is_one_line(aligned: tuple[Path, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at(1, monkeypatch)
    with pytest.raises(DeviceError, match=r"step 1: a sample of \d+ tokens does not fit .* --set data.max_length=\d+"):
        run_in(aligned, Room(None, 1), monkeypatch)


def test_other_errors_are_not_swallowed(aligned: tuple[Path, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at(1, monkeypatch, RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        run_in(aligned, Room(128, None), monkeypatch)


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_what_running_out_of_memory_looks_like(error: RuntimeError, memory: bool) -> None:
    assert is_out_of_memory(error) is memory
