import json
from pathlib import Path

from qllava.checkpoint.manifest import Manifest
from qllava.demo.steps import demo_steps


def finished(folder: Path, stage: str, status: str = "finished") -> None:
    folder.mkdir(parents=True)
    Manifest(stage=stage, status=status, recipe="0", data={}, model={}).write(folder)  # type: ignore[arg-type]


def test_the_four_commands_are_the_contracts() -> None:
    assert [step.line for step in demo_steps()] == [
        "qllava gen-data --images coco/",
        "qllava train --stage 1",
        "qllava train --stage 2 --lora-r 64",
        "qllava chat image.jpg",
    ]


def test_finished_steps_are_known(tmp_path: Path) -> None:
    def done() -> list[bool]:
        return [step.done(tmp_path) for step in demo_steps()]

    assert done() == [False] * 4
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "card.json").write_text(json.dumps({}))
    finished(tmp_path / "runs" / "align-001", "align", "interrupted")
    assert done() == [True, False, False, False]
    finished(tmp_path / "runs" / "align-002", "align")
    assert done() == [True, True, False, False]
    finished(tmp_path / "runs" / "finetune-001", "finetune")
    assert done() == [True, True, True, False]
