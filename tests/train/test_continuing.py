"""Continuing: past a damaged checkpoint, alone on the run, with what was noted; and measuring changes nothing."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qllava.checkpoint.saved import best_checkpoint, checkpoint_folders, read_seal
from qllava.errors import RunError
from qllava.lock import hold
from qllava.train.claim import lock_path
from qllava.train.request import claim_run
from qllava.train.run import train
from qllava.train.steps import InterruptedRunError
from tests.train.test_run import InterruptingView
from tests.train.workspace import SilentView, make_workspace, request, tiny_recipe


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.name}/{name}": tensor
        for path in sorted(run.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def make_at(folder: Path) -> Path:
    folder.mkdir()
    return make_workspace(folder)


def test_a_damaged_checkpoint_is_skipped_and_named(tmp_path: Path) -> None:
    calm = train(request(make_at(tmp_path / "calm"), "align"), SilentView()).run
    workspace = make_at(tmp_path / "damaged")
    with pytest.raises(InterruptedRunError):
        train(request(workspace, "align"), InterruptingView(5))
    folder = workspace / "runs" / "align-001"
    newest = checkpoint_folders(folder)[-1]
    assert newest.name == "step-000005"
    content = bytearray((newest / "optimizer.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "optimizer.pt").write_bytes(content)
    view = SilentView()
    run = train(request(workspace, "align"), view).run
    assert ("DAMAGED", str(newest)) in view.notes
    assert ("continuing from", "step 4") in view.notes
    assert ("start", "4/6") in view.notes
    assert (folder / "checkpoints" / "damaged-step-000005").is_dir()
    assert same(weights(calm.folder), weights(run.folder))


def test_measuring_held_out_questions_changes_no_weight(tmp_path: Path) -> None:
    ends = {}
    for name in ("without", "with"):
        workspace = make_at(tmp_path / name)
        recipe = tiny_recipe(workspace, lora={"rank": 4, "dropout": 0.1})
        if name == "with":
            rows = [
                {"id": str(i), "image": f"{i}.png", "question": "What color?", "answers": ["red"], "kind": "color"}
                for i in range(4)
            ]
            (workspace / "data" / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = train(request(workspace, "align", recipe=recipe), SilentView()).run
        view = SilentView()
        run = train(request(workspace, "finetune", source=source), view).run
        ends[name] = weights(run.folder)
        best = best_checkpoint(run.folder)
        if name == "with":
            assert best is not None
            assert [value for title, value in view.notes if title == "held-out loss"][1].endswith("at step 2")
            assert read_seal(checkpoint_folders(source.folder)[-1]).heldout_loss is None
        else:
            assert best is None
    assert same(ends["without"], ends["with"])


def test_another_process_is_refused_and_a_new_run_is_not(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    asked = request(workspace, "align")
    folder, _ = claim_run(asked)
    (workspace / "runs").mkdir()
    with hold(lock_path(folder)):
        with pytest.raises(RunError, match=rf"align-001 is being trained by process {os.getpid()} of .*; wait for it"):
            train(asked, SilentView())
        assert train(request(workspace, "align", new=True), SilentView()).run.folder.name == "align-002"
    assert not list((workspace / "runs").glob(".*"))


def test_what_a_run_was_left_out_before_is_listed_at_its_end(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    with pytest.raises(InterruptedRunError):
        train(request(workspace, "align"), InterruptingView(2))
    seal = read_seal(checkpoint_folders(workspace / "runs" / "align-001")[-1])
    assert seal.facts["rejected"] == {}
    assert seal.facts["token_budget"] >= 256


def test_saving_more_often_is_the_same_run(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    with pytest.raises(InterruptedRunError):
        train(request(workspace, "align"), InterruptingView(2))
    settings = tiny_recipe(workspace).align.model_dump() | {"save_steps": 1, "keep_checkpoints": 1}
    run = train(request(workspace, "align", recipe=tiny_recipe(workspace, align=settings)), SilentView()).run
    assert run.folder.name == "align-001"
    assert [path.name for path in checkpoint_folders(run.folder)] == ["step-000006"]


class Impatient(SilentView):
    """Sends the signal twice in one step."""

    def step(self, figures: dict[str, float]) -> None:
        if figures["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)


def test_the_second_signal_stops_at_once(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    told = r"stopped at once in step \d of 6, saved up to step 2; continue with `qllava train --stage 1`"
    with pytest.raises(InterruptedRunError, match=told) as caught:
        train(request(workspace, "align"), Impatient())
    assert caught.value.exit_code == 143
    kept: Any = checkpoint_folders(workspace / "runs" / "align-001")
    assert [path.name for path in kept] == ["step-000002"]


def test_no_secret_reaches_a_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    monkeypatch.setenv("SOME_API_KEY", "a-key-that-must-not-show")

    class Talkative(SilentView):
        def step(self, figures: dict[str, float]) -> None:
            logging.getLogger("trl").warning("calling with a-key-that-must-not-show")

    run = train(request(make_workspace(tmp_path), "align"), Talkative()).run
    assert "calling with ***" in (run.folder / "log.txt").read_text()
    for path in run.folder.rglob("*"):
        assert not path.is_file() or b"a-key-that-must-not-show" not in path.read_bytes(), path
