"""A data worker that hangs is reported with its file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import qllava.train.steps
from qllava.errors import DataError, RunError
from qllava.train.run import train
from qllava.train.stalled import explain_worker_failure, find_stalled
from tests.train.workspace import SilentView, make_workspace, request, tiny_recipe


class HangingPictures:
    """A builder's image folder on a disk that does not answer for one picture."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        import qllava.data.images

        opened = qllava.data.images.open_image

        def open_or_hang(path: Path) -> Any:
            if path.name == name:
                time.sleep(600)
            return opened(path)

        # The workers are forked and see it too.
        monkeypatch.setattr(qllava.data.images, "open_image", open_or_hang)


def test_a_worker_that_hangs_ends_the_run_with_its_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    HangingPictures(monkeypatch, "5.png")
    monkeypatch.setattr(qllava.train.steps, "STALLED_AFTER", 8.0)
    monkeypatch.setattr(
        qllava.train.steps,
        "explain_worker_failure",
        lambda error, builder, steps: explain_worker_failure(error, builder, steps, patience=8.0),
    )
    workspace = make_workspace(tmp_path)
    recipe = tiny_recipe(workspace, data={"max_length": 256, "workers": 1})
    with pytest.raises(DataError, match=r"delivered nothing for minutes: sample a5 \(5.png\); check that file"):
        train(request(workspace, "align", recipe=recipe), SilentView())


def test_a_worker_that_was_ended_is_said_in_plain_words() -> None:
    error = RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")
    explained = explain_worker_failure(error, None, ())  # type: ignore[arg-type]
    assert isinstance(explained, RunError)
    assert "most likely for want of memory; repeat the command with fewer: --set data.workers=1" in str(explained)
    assert explain_worker_failure(RuntimeError("CUDA error"), None, ()) is None  # type: ignore[arg-type]


def test_samples_that_are_fast_are_not_blamed(tmp_path: Path) -> None:
    from qllava.data.steps import StepBuilder, plan_steps

    class Quick(StepBuilder):
        def build(self, step: int) -> Any:
            return [], []

    plan = plan_steps(["a", "b"], batch_size=1, epochs=1, seed=0)
    builder = Quick([], plan, None, tmp_path, None, 8, 8)  # type: ignore[arg-type]
    assert find_stalled(builder, (0, 1, 2), 20.0) is None
