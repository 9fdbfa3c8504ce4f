"""Training on data that is not all good: what is left out, what breaks on the way, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from qllava.checkpoint.load import build_encoder
from qllava.data.check import check_data
from qllava.data.check_cache import read_findings
from qllava.data.clean import write_clean
from qllava.data.formats import load_conversations
from qllava.errors import DataError
from qllava.train.request import find_data
from qllava.train.run import train
from qllava.train.samples import CHECK_FILE
from qllava.train.steps import InterruptedRunError
from tests.train.test_run import InterruptingView
from tests.train.workspace import SilentView, make_workspace, request, tiny_recipe


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return make_workspace(tmp_path)


def _add(workspace: Path, *rows: Any) -> None:
    path = workspace / "data" / "align.json"
    path.write_text(json.dumps([*json.loads(path.read_text()), *rows]))


def _row(identity: str, image: str, answer: str = "a pink picture") -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nDescribe it."}, {"from": "gpt", "value": answer}]
    return {"id": identity, "image": image, "conversations": turns}


class BreakingView(SilentView):
    """Damages pictures after the first step: they were whole when the data was checked."""

    def __init__(self, pictures: list[Path]) -> None:
        super().__init__()
        self.pictures = pictures

    def step(self, figures: dict[str, float]) -> None:
        super().step(figures)
        for picture in self.pictures:
            picture.write_bytes(picture.read_bytes()[:60])


def test_the_bad_ones_are_left_out_and_listed(workspace: Path) -> None:
    _add(workspace, _row("broken", "gone.png"), {"no": "sample"})
    with pytest.raises(DataError, match=r"2 of 10 samples cannot be trained on .*: 1 missing, 1 schema; sample broken"):
        train(request(workspace, "align"), SilentView())
    assert not (workspace / "runs").exists()
    view = SilentView()
    outcome = train(request(workspace, "align", max_bad=0.2), view)
    assert ("left out", "2 of 10 samples") in view.notes
    assert list(outcome.rejected) == ["broken", "row 9"]
    findings = read_findings(outcome.run.folder / CHECK_FILE)
    assert findings is not None
    assert [finding.row for finding in findings.bad] == [8, 9]
    listed = (outcome.run.folder / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in listed] == ["broken", "row 9"]


def test_the_fixed_set_trains_like_the_good_one(workspace: Path) -> None:
    good = train(request(workspace, "align"), SilentView()).run.folder / "projector.safetensors"
    _add(workspace, _row("broken", "gone.png"), {"no": "sample"}, _row("empty", "1.png", " "))
    found = find_data(str(workspace / "data"), stage="align", images=None)
    table = load_conversations(found.path, strict=False)
    encoder = build_encoder(tiny_recipe(workspace), template="plain")
    findings = check_data(table, encoder, image_root=found.image_root, max_length=256, needs_image=True)
    write_clean(table, findings, workspace / "data" / "clean.json")
    clean = find_data(str(workspace / "data" / "clean.json"), stage="align", images=None)
    fixed = train(request(workspace, "align", data=clean), SilentView()).run.folder / "projector.safetensors"
    assert fixed != good
    for name, tensor in load_file(good).items():
        assert torch.equal(tensor, load_file(fixed)[name]), name


def test_a_picture_that_breaks_on_the_way_costs_its_samples(workspace: Path) -> None:
    view = BreakingView([workspace / "pictures" / "2.png"])
    outcome = train(request(workspace, "align"), view)
    assert outcome.run.finished
    assert list(outcome.rejected) == ["a2"]
    assert "2.png cannot be read" in outcome.rejected["a2"]
    assert sum(figures["samples"] for figures in view.steps) < 24


def test_a_step_that_loses_all_its_samples_changes_nothing_else(workspace: Path) -> None:
    everything = [workspace / "pictures" / f"{number}.png" for number in range(8)]
    view = BreakingView(everything)
    outcome = train(request(workspace, "align"), view)
    assert outcome.run.finished
    # The second step was built while the first one ran.
    assert [figures["samples"] for figures in view.steps] == [4, 4, 0, 0, 0, 0]
    assert all(figures["loss"] == 0 for figures in view.steps[2:])
    assert len(outcome.rejected) == 8
    assert all(torch.isfinite(t).all() for t in load_file(outcome.run.folder / "projector.safetensors").values())


def test_a_continued_run_goes_by_its_first_check(workspace: Path) -> None:
    whole = train(request(workspace, "align"), SilentView()).run.folder
    with pytest.raises(InterruptedRunError):
        train(request(workspace, "align", new=True), InterruptingView(2))
    # A picture that is touched would be looked at anew, and one more sample left out: other steps from here on.
    Image.open(workspace / "pictures" / "1.png").save(workspace / "pictures" / "1.png")
    (workspace / "cache").rename(workspace / "old-cache")
    shown: list[list[str]] = []
    again = request(workspace, "align", show=lambda encoder, samples: shown.append([s.id for s in samples]))
    run = train(again, SilentView()).run.folder
    assert shown == []
    assert not (workspace / "cache").exists()
    for name, tensor in load_file(whole / "projector.safetensors").items():
        assert torch.equal(tensor, load_file(run / "projector.safetensors")[name]), name


def test_the_first_samples_are_shown_before_the_first_step(workspace: Path) -> None:
    shown: list[list[str]] = []
    view = SilentView()
    train(request(workspace, "align", show=lambda encoder, samples: shown.append([s.id for s in samples])), view)
    assert len(shown) == 1
    assert len(shown[0]) == 3
    assert ("data checked", "8 samples") in view.notes
