"""A small training workspace: pictures, LLaVA JSON for both stages, and a recipe over tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from qllava.checkpoint.manifest import Run
from qllava.data.formats import load_conversations
from qllava.plan.device import processor
from qllava.recipe import Recipe, parse_recipe
from qllava.train.health import Health
from qllava.train.request import DataSource, TrainRequest, find_data
from qllava.train.saving import Saver
from qllava.types import Stage
from tests.tiny import save_language_model, save_tower

COLORS = {"red": (220, 30, 30), "blue": (30, 60, 220), "green": (30, 160, 60), "yellow": (240, 210, 30)}


class SilentView:
    """A view that remembers."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []
        self.steps: list[dict[str, float]] = []

    def note(self, name: str, value: object, why: str = "", flag: str = "") -> None:
        self.notes.append((name, str(value)))

    def status(self, text: str) -> None:
        pass

    def start(self, *, steps: int, done: int) -> None:
        self.notes.append(("start", f"{done}/{steps}"))

    def step(self, figures: dict[str, float]) -> None:
        self.steps.append(figures)

    def stop(self) -> None:
        pass


def make_workspace(folder: Path, pictures: int = 8) -> Path:
    """`models/`, `pictures/` and `data/{align,instruct}.json` with a card."""
    save_language_model(folder / "models" / "lm")
    save_tower(folder / "models" / "tower")
    (folder / "pictures").mkdir()
    (folder / "data").mkdir()
    align, instruct = [], []
    for index in range(pictures):
        color = list(COLORS)[index % len(COLORS)]
        name = f"{index}.png"
        Image.new("RGB", (48, 40), COLORS[color]).save(folder / "pictures" / name)
        align.append(
            {
                "id": f"a{index}",
                "image": name,
                "conversations": [
                    {"from": "human", "value": "<image>\nDescribe it."},
                    {"from": "gpt", "value": f"a {color} picture"},
                ],
            }
        )
        for question, answer in (("What color?", color), ("Is it red?", "yes" if color == "red" else "no")):
            instruct.append(
                {
                    "id": f"q{index}-{question}",
                    "image": name,
                    "conversations": [
                        {"from": "human", "value": f"<image>\n{question}"},
                        {"from": "gpt", "value": answer},
                    ],
                }
            )
    instruct.append(
        {"id": "text", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}
    )
    (folder / "data" / "align.json").write_text(json.dumps(align))
    (folder / "data" / "instruct.json").write_text(json.dumps(instruct))
    (folder / "data" / "card.json").write_text(json.dumps({"image_root": "../pictures"}))
    return folder


def tiny_recipe(folder: Path, **changes: Any) -> Recipe:
    """A recipe over the workspace's models."""
    values: dict[str, Any] = {
        "name": "tiny",
        "model": {
            "language_model": str(folder / "models" / "lm"),
            "vision_tower": str(folder / "models" / "tower"),
            "quantization": "nf4",
        },
        "template": "chatml",
        "data": {"max_length": 256, "workers": 0},
        "align": {"learning_rate": 1e-2, "batch_size": 4, "epochs": 3, "save_steps": 2},
        "finetune": {
            "learning_rate": 1e-2,
            "projector_learning_rate": 1e-3,
            "batch_size": 6,
            "epochs": 2,
            "save_steps": 2,
        },
        "lora": {"rank": 4},
    }
    return parse_recipe({**values, **changes}, origin="tiny")


def request(folder: Path, stage: Stage, *, source: Run | None = None, **changes: Any) -> TrainRequest:
    """A request as the command line makes it."""
    settings: dict[str, Any] = {
        "stage": stage,
        "recipe": source.recipe if source is not None else tiny_recipe(folder),
        "why": "test",
        "data": find_data(str(folder / "data"), stage=stage, images=None),
        "runs": folder / "runs",
        "probe": processor(),
        "command": f"qllava train --stage {1 if stage == 'align' else 2}",
        "source": source,
    }
    merged = {**settings, **changes}
    data: DataSource = merged["data"]
    return TrainRequest(**merged, conversations=load_conversations(data.path, image_root=data.image_root, strict=False))


def quiet_saving(folder: Path) -> dict[str, Any]:
    """What a trainer needs to save and to look at its steps, for tests of something else."""
    return {
        "make_saver": lambda trained: Saver(
            folder,
            keep=1,
            every=10**9,
            total=1,
            trained=trained,
            view=SilentView(),
            heldout_loss=None,
            saved=lambda step: None,
        ),
        "health": Health(folder, members=lambda step: [], view=SilentView(), advice="{file}"),
        "stalled_after": 300.0,
    }
