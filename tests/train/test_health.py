"""What is broken stops the run before the weights change; what is idle is said once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from qllava_cli.main import main
from safetensors.torch import load_file

from qllava.checkpoint.manifest import read_run
from qllava.checkpoint.saved import checkpoint_folders, verify
from qllava.data.formats import load_conversations
from qllava.train.health import BrokenTrainingError, Health
from qllava.train.run import train
from qllava.types import IMAGE, Conversation, text
from tests.train.workspace import SilentView, make_workspace, request, tiny_recipe

PICTURE = Conversation(
    "one",
    ("a.png",),
    (
        {"role": "user", "content": [IMAGE, text("Is <image> a word?")]},
        {"role": "assistant", "content": [text("yes")]},
    ),
    "detail",
)
TEXT = Conversation(
    "two", (), ({"role": "user", "content": [text("hi")]}, {"role": "assistant", "content": [text("hello")]})
)


def parameter(gradient: float | None, weight: float = 1.0) -> torch.nn.Parameter:
    made = torch.nn.Parameter(torch.full((3,), weight))
    made.grad = None if gradient is None else torch.full((3,), gradient)
    return made


def groups(lora: float | None = 1.0, projector: float | None = 1.0, *, lr: float = 0.1, **more: Any) -> list[Any]:
    return [
        {"name": "lora", "lr": lr, "params": [parameter(lora), parameter(None)]},
        {"name": "projector", "lr": lr, "params": [parameter(projector, **more)]},
    ]


def health(folder: Path, view: SilentView, samples: list[Conversation] | None = None) -> Health:
    return Health(folder, members=lambda step: samples or [PICTURE, TEXT], view=view, advice="look at {file}")


def test_what_is_fine_passes_without_a_word(tmp_path: Path) -> None:
    view = SilentView()
    checked = health(tmp_path, view)
    for step in range(3):
        checked.check(step, loss=torch.tensor(0.5), groups=groups(), supervised=7)
    assert view.notes == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("loss", "changes", "message"),
    [
        (float("nan"), {}, r"step 3: the loss is NaN; stopped before that was saved"),
        (float("inf"), {}, r"the loss is infinite;"),
        (1.0, {"lora": float("nan")}, r"step 3: the gradient of LoRA is NaN;"),
        (1.0, {"projector": float("inf")}, r"the gradient of the projector is infinite;"),
        (1.0, {"weight": float("nan")}, r"step 3: the projector is NaN;"),
    ],
)
def test_broken_numbers_stop_with_the_batch(tmp_path: Path, loss: float, changes: Any, message: str) -> None:
    with pytest.raises(BrokenTrainingError, match=message) as caught:
        health(tmp_path, SilentView()).check(2, loss=torch.tensor(loss), groups=groups(**changes), supervised=7)
    path = tmp_path / "bad-step-000003.json"
    assert f"its samples: `look at {path}`" in str(caught.value)
    assert list(load_conversations(path)) == [PICTURE, TEXT]


@pytest.mark.parametrize(
    ("loss", "supervised", "given", "said"),
    [
        (0.0, 7, groups(), "loss is exactly 0"),
        (0.0, 0, groups(None, None), "nothing trained"),
        (1.0, 7, groups(lora=0.0), "the gradient of LoRA"),
        (1.0, 7, groups(lora=None), "the gradient of LoRA"),
        (1.0, 7, groups(projector=None), "the gradient of the projector"),
        (1.0, 7, groups(lr=0.0), "learning rate is 0"),
    ],
)
def test_what_is_idle_is_said_once(tmp_path: Path, loss: float, supervised: int, given: Any, said: str) -> None:
    view = SilentView()
    checked = health(tmp_path, view)
    for step in range(4):
        checked.check(step, loss=torch.tensor(loss), groups=given, supervised=supervised)
    assert [name for name, _ in view.notes] == [said]


def test_text_alone_does_not_reach_the_projector_and_a_warm_up_begins_at_zero(tmp_path: Path) -> None:
    view = SilentView()
    checked = health(tmp_path, view, [TEXT])
    checked.check(0, loss=torch.tensor(1.0), groups=groups(projector=None, lr=0.0), supervised=7)
    checked.check(1, loss=torch.tensor(1.0), groups=groups(projector=None, lr=0.1), supervised=7)
    checked.check(2, loss=torch.tensor(1.0), groups=groups(projector=None, lr=0.0), supervised=7)
    assert view.notes == []


@pytest.mark.parametrize(("every", "saved", "bad"), [(1, 1, 2), (3, 0, 3)])
def test_a_run_that_explodes_stops_and_its_batch_can_be_looked_at(
    tmp_path: Path, every: int, saved: int, bad: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The warm-up's first step changes nothing, its second makes infinite weights, the third has no loss."""
    workspace = make_workspace(tmp_path)
    settings = {"learning_rate": 1e38, "batch_size": 4, "epochs": 3, "save_steps": every, "warmup_ratio": 0.5}
    recipe = tiny_recipe(workspace, align=settings)
    with pytest.raises(BrokenTrainingError, match=rf"step {bad}: .* stopped before that was saved") as caught:
        train(request(workspace, "align", recipe=recipe), SilentView())
    folder = workspace / "runs" / "align-001"
    kept = checkpoint_folders(folder)
    manifest = read_run(folder).manifest
    assert (manifest.status, manifest.steps, len(kept)) == ("interrupted", saved, saved)
    for checkpoint in kept:
        verify(checkpoint)
        assert all(torch.isfinite(t).all() for t in load_file(checkpoint / "projector.safetensors").values())
    (dump,) = folder.glob("bad-step-*.json")
    assert dump.name == f"bad-step-{bad:06d}.json"
    assert len(json.loads(dump.read_text())) == 4
    command = str(caught.value).split("`")[1]
    assert main(command.split()[1:]) == 0
    assert "[[" in capsys.readouterr().out
