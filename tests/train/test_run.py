"""Both stages end to end on tiny models: what is written, that it learns, and that an interrupted run ends the same."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qllava.checkpoint.load import find_run, load_run
from qllava.checkpoint.manifest import list_runs, read_run
from qllava.errors import DataError, RunError
from qllava.train.callbacks import TrainView
from qllava.train.request import find_data, find_source
from qllava.train.run import train
from qllava.train.steps import InterruptedRunError
from tests.train.workspace import SilentView, make_workspace, request, tiny_recipe


class InterruptingView(SilentView):
    """Sends this process SIGINT at a step, as Ctrl-C would."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def step(self, figures: dict[str, float]) -> None:
        super().step(figures)
        if figures["step"] == self.at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return make_workspace(tmp_path)


def test_both_stages_leave_complete_runs_that_load_back(workspace: Path) -> None:
    view: SilentView = SilentView()
    align = train(request(workspace, "align"), view).run
    assert align.folder == workspace / "runs" / "align-001"
    assert align.finished
    assert view.steps[-1]["step"] == 6  # 8 pairs x 3 epochs in batches of 4
    assert view.steps[-1]["loss"] < view.steps[0]["loss"]
    names = {path.name for path in align.folder.iterdir()}
    assert {"recipe.yaml", "manifest.json", "projector.safetensors", "metrics.jsonl", "loss.png", "log.txt"} <= names
    assert {"tokenizer.json", "processor_config.json", "chat_template.jinja", "checkpoints"} <= names
    assert "adapter_model.safetensors" not in names

    finetune = train(request(workspace, "finetune", source=align), SilentView()).run
    assert finetune.manifest.source["run"] == "align-001"
    assert {"adapter_model.safetensors", "adapter_config.json"} <= {p.name for p in finetune.folder.iterdir()}
    before = load_file(align.folder / "projector.safetensors")
    after = load_file(finetune.folder / "projector.safetensors")
    assert before.keys() == after.keys()
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)

    loaded = load_run(find_run(workspace / "runs"), device="cpu")
    projector = loaded.model.get_base_model().model.multi_modal_projector.state_dict()
    assert all(torch.equal(projector[name], after[name]) for name in after)
    adapter = load_file(finetune.folder / "adapter_model.safetensors")
    live = {n.replace(".default", ""): p for n, p in loaded.model.named_parameters() if "lora_" in n}
    assert live.keys() == adapter.keys()
    assert all(torch.equal(live[name], adapter[name]) for name in adapter)
    assert any(tensor.abs().max() > 0 for name, tensor in adapter.items() if "lora_B" in name)


def test_packing_changes_the_speed_and_nothing_else(workspace: Path) -> None:
    """`--no-pack` is the slow twin: the same steps, losses and weights, one sample a sequence."""
    align = train(request(workspace, "align"), SilentView()).run
    rows, weights, shares = [], [], []
    for pack in (True, False):
        recipe = tiny_recipe(workspace, data={"max_length": 256, "workers": 0, "pack": pack})
        view = SilentView()
        run = train(request(workspace, "finetune", source=align, recipe=recipe), view).run
        rows.append([json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()])
        weights.append(load_file(run.folder / "projector.safetensors"))
        shares.append(run.manifest.packing)
    for packed, alone in zip(*rows, strict=True):
        assert packed["loss"] == pytest.approx(alone["loss"], rel=1e-4)
        assert packed["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-3)
        assert packed["tokens"] < packed["tokens_alone"] == alone["tokens"] == alone["tokens_alone"]
        assert packed["shared"] == 1 - packed["tokens"] / packed["tokens_alone"]
        assert packed["fill"] == packed["tokens"] / (packed["packs"] * packed["token_budget"])
        assert (alone["packs"], alone["shared"], alone["fill"]) == (alone["samples"], 0, 1)
    saved = 1 - sum(row["tokens"] for row in rows[0]) / sum(row["tokens_alone"] for row in rows[0])
    assert shares[0]["shared"] == pytest.approx(saved, abs=1e-4)
    assert saved > 0.3  # two questions about each picture of 16 tokens
    assert shares[1] == {"shared": 0.0, "fill": 1.0}
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=1e-4), name


@pytest.mark.parametrize("stage", ["align", "finetune"])
def test_interrupted_run_ends_with_the_same_weights(tmp_path: Path, stage: str) -> None:
    finals = []
    for number, interrupt_at in enumerate((None, 1, 3)):
        workspace = make_workspace_at(tmp_path / str(number))
        source = train(request(workspace, "align"), SilentView()).run if stage == "finetune" else None
        if interrupt_at is not None:
            view: TrainView = InterruptingView(interrupt_at)
            with pytest.raises(
                InterruptedRunError, match=rf"saved at step {interrupt_at} of 6; continue with `qllava train"
            ):
                train(request(workspace, stage, source=source), view)
            assert read_run(workspace / "runs" / f"{stage}-001").manifest.status == "interrupted"
        again = SilentView()
        run = train(request(workspace, stage, source=source), again).run
        assert run.folder.name == f"{stage}-001"
        if interrupt_at is not None:
            assert ("start", f"{interrupt_at}/6") in again.notes
        steps = [json.loads(line)["step"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        assert steps == [1, 2, 3, 4, 5, 6]
        finals.append({f: load_file(run.folder / f) for f in run.manifest.files if f.endswith(".safetensors")})
    for other in finals[1:]:
        for file, tensors in finals[0].items():
            for name, tensor in tensors.items():
                assert torch.equal(tensor, other[file][name]), (file, name)


def test_a_projector_is_fitted_to_the_captions_once(tmp_path: Path) -> None:
    settings = {"learning_rate": 1e-4, "batch_size": 12, "epochs": 1, "save_steps": 2}
    finals = {}
    cases = (("whole", "captions", None), ("stopped", "captions", 2), ("random", "random", None))
    for name, start, interrupt_at in cases:
        (tmp_path / name).mkdir()
        workspace = make_workspace(tmp_path / name, pictures=48)
        recipe = tiny_recipe(workspace, align=settings, align_start=start)
        if interrupt_at is not None:
            with pytest.raises(InterruptedRunError):
                train(request(workspace, "align", recipe=recipe), InterruptingView(interrupt_at))
        view = SilentView()
        run = train(request(workspace, "align", recipe=recipe), view).run
        fitted = ("projector start", "fitted to the captions") in view.notes
        assert fitted == (name == "whole")
        finals[name] = load_file(run.folder / "projector.safetensors")
    for key, tensor in finals["whole"].items():
        assert torch.equal(tensor, finals["stopped"][key]), key
    assert not all(torch.allclose(t, finals["random"][key], atol=1e-2) for key, t in finals["whole"].items())


def test_few_captions_start_a_projector_at_random(workspace: Path) -> None:
    view = SilentView()
    train(request(workspace, "align", recipe=tiny_recipe(workspace, align_start="captions")), view)
    assert ("projector start", "random") in view.notes


def make_workspace_at(folder: Path) -> Path:
    folder.mkdir()
    return make_workspace(folder)


def test_interrupt_exit_code_is_the_shells(workspace: Path) -> None:
    with pytest.raises(InterruptedRunError) as caught:
        train(request(workspace, "align"), InterruptingView(2))
    assert caught.value.exit_code == 130


def test_run_numbers(workspace: Path) -> None:
    first = train(request(workspace, "align"), SilentView()).run
    second = train(request(workspace, "align"), SilentView()).run
    assert [first.folder.name, second.folder.name] == ["align-001", "align-002"]
    with pytest.raises(InterruptedRunError):
        train(request(workspace, "align"), InterruptingView(2))
    with pytest.raises(RunError, match=r"align-003 is unfinished \(step 2 of 6\); continue it with `qllava train"):
        find_source(workspace / "runs", None)
    assert find_source(workspace / "runs", second.folder).folder == second.folder
    other = tiny_recipe(workspace, seed=7)
    assert train(request(workspace, "align", recipe=other), SilentView()).run.folder.name == "align-004"
    assert train(request(workspace, "align", new=True), SilentView()).run.folder.name == "align-005"
    assert [run.manifest.status for run in list_runs(workspace / "runs", "align")][2] == "interrupted"


def test_max_steps_counts_as_finished(workspace: Path) -> None:
    recipe = tiny_recipe(workspace, align={"learning_rate": 1e-2, "batch_size": 4, "max_steps": 1})
    run = train(request(workspace, "align", recipe=recipe), SilentView()).run
    assert run.finished
    assert run.manifest.steps == run.manifest.total_steps == 1


def test_stage_two_refuses_another_model(workspace: Path) -> None:
    align = train(request(workspace, "align"), SilentView()).run
    other = align.recipe.model_copy(
        update={"model": align.recipe.model.model_copy(update={"quantization": "none", "feature_layer": -1})}
    )
    with pytest.raises(RunError, match=r"feature_layer: -2 there, -1 here; quantization: nf4 there, none here"):
        train(request(workspace, "finetune", source=align, recipe=other), SilentView())


def test_damaged_projector_is_refused(workspace: Path) -> None:
    align = train(request(workspace, "align"), SilentView()).run
    path = align.folder / "projector.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(RunError, match=r"projector.safetensors is damaged or was changed"):
        train(request(workspace, "finetune", source=align), SilentView())


def test_missing_source_and_data_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"stage 2 needs a finished align run .* first `qllava train --stage 1`"):
        find_source(tmp_path / "runs", None)
    with pytest.raises(DataError, match=r"align.json does not exist; make it with `qllava gen-data"):
        find_data(str(tmp_path / "align.json"), stage="align", images=None)


def test_data_without_a_trained_token_is_refused(workspace: Path) -> None:
    rows = [
        {
            "id": str(i),
            "image": "0.png",
            "conversations": [{"from": "human", "value": "<image>\nhi"}, {"from": "gpt", "value": "  "}],
        }
        for i in range(3)
    ]
    (workspace / "data" / "instruct.json").write_text(json.dumps(rows))
    align = train(request(workspace, "align"), SilentView()).run
    with pytest.raises(DataError, match=r"none of the 3 samples examined can be trained on; sample 0"):
        train(request(workspace, "finetune", source=align), SilentView())


def test_text_only_rows_are_left_out_of_stage_one(workspace: Path) -> None:
    view = SilentView()
    train(
        request(workspace, "align", data=find_data(str(workspace / "data/instruct.json"), stage="align", images=None)),
        view,
    )
    assert ("text-only rows", "1") in view.notes
