"""The step plan: what belongs to which optimizer step."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from qllava.data.collator import collate_step
from qllava.data.formats import load_conversations
from qllava.data.images import open_image, to_pixels
from qllava.data.steps import StepBuilder, plan_steps
from tests.data.golden import build_encoder
from tests.data.tiny_tokenizers import byte_level


def test_every_sample_once_an_epoch_in_full_batches() -> None:
    plan = plan_steps([f"img{i // 3}" for i in range(25)], batch_size=8, epochs=2, seed=1)
    assert [len(plan.members(step)) for step in range(len(plan))] == [8, 8, 8, 1, 8, 8, 8, 1]
    first = [i for step in range(4) for i in plan.members(step)]
    second = [i for step in range(4, 8) for i in plan.members(step)]
    assert sorted(first) == sorted(second) == list(range(25))
    assert first != second


def test_samples_of_a_picture_stay_together() -> None:
    groups = [f"img{i % 10}" for i in range(40)]
    plan = plan_steps(groups, batch_size=8, epochs=1, seed=3)
    for step in range(len(plan)):
        assert sorted(Counter(groups[i] for i in plan.members(step)).values()) == [4, 4]


def test_depends_on_data_and_seed_only() -> None:
    groups = list(range(50))
    plans = [plan_steps(groups, batch_size=7, epochs=1, seed=seed).order.tolist() for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]


@pytest.mark.parametrize(("epochs", "samples"), [(0.5, 10), (1.0, 20), (1.5, 30)])
def test_fractions_of_an_epoch(epochs: float, samples: int) -> None:
    plan = plan_steps(list(range(20)), batch_size=4, epochs=epochs, seed=0)
    assert plan.bounds[-1] == len(plan.order) == samples


def test_step_cap_keeps_the_beginning() -> None:
    whole = plan_steps(list(range(40)), batch_size=4, epochs=2, seed=0)
    capped = plan_steps(list(range(40)), batch_size=4, epochs=2, seed=0, max_steps=12)
    assert len(capped) == 12
    assert [capped.members(i) for i in range(12)] == [whole.members(i) for i in range(12)]
    assert len(plan_steps(list(range(40)), batch_size=4, epochs=1, seed=0, max_steps=99)) == 10


def builder(folder: Path, names: list[str]) -> StepBuilder:
    """Two samples a picture, all in one step."""
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
    rows = [{"id": f"{name}-{n}", "image": name, "conversations": turns} for name in names for n in (0, 1)]
    (folder / "data.json").write_text(json.dumps(rows))
    square = {"height": 8, "width": 8}
    return StepBuilder(
        conversations=load_conversations(folder / "data.json"),
        plan=plan_steps([row["image"] for row in rows], batch_size=100, epochs=1, seed=0),
        encoder=build_encoder(byte_level(), "chatml"),
        image_root=folder,
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size=square),
        max_length=200,
        token_budget=400,
    )


def test_a_picture_that_breaks_takes_its_samples_with_it(tmp_path: Path) -> None:
    names = ["a.png", "b.png", "c.png"]
    for number, name in enumerate(names):
        Image.effect_noise((20 + number, 20), 90).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:100])
    made = builder(tmp_path, names)
    packs, rejected = made.build(0)
    assert sorted(sample for sample, _ in rejected) == ["b.png-0", "b.png-1"]
    assert all(f"image {tmp_path / 'b.png'} cannot be read" in reason for _, reason in rejected)
    assert sum(pack["tree"].samples for pack in packs) == 4
    shown = [name for pack in packs for name in pack["tree"].images]
    assert sorted(shown) == ["a.png", "c.png"]
    for pack in packs:
        for name, pixels in zip(pack["tree"].images, pack["pixels"], strict=True):
            assert np.array_equal(pixels, to_pixels(made.image_processor, open_image(tmp_path / name)))


def test_a_step_may_lose_everything(tmp_path: Path) -> None:
    packs, rejected = builder(tmp_path, ["gone.png"]).build(0)
    assert packs == []
    assert len(rejected) == 2
    step = collate_step([{"packs": packs, "rejected": rejected}])
    assert (step["packs"], step["supervised"], step["samples"], step["tokens"]) == ([], 0, 0, 0)
    assert step["rejected"] == rejected
