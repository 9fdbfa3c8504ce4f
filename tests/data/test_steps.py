"""The step plan: what belongs to which optimizer step."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from qllava.data.collator import collate_step
from qllava.data.formats import load_conversations
from qllava.data.images import open_image, to_pixels
from qllava.data.steps import StepBuilder, TokenBudget, plan_steps
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


@pytest.mark.parametrize("seed", range(3))
def test_the_order_is_that_of_groups_laid_end_to_end(seed: int) -> None:
    """The slow twin: shuffle the groups as lists, then join them."""
    rng = np.random.default_rng(seed)
    groups = [f"p{i}" if i % 5 else ("text", n) for n, i in enumerate(rng.integers(0, 30, size=80).tolist())]
    by_group: dict[object, list[int]] = {}
    for index, key in enumerate(groups):
        by_group.setdefault(key, []).append(index)
    members = list(by_group.values())
    expected = [
        index
        for epoch in range(2)
        for number in np.random.default_rng((seed, epoch)).permutation(len(members))
        for index in members[number]
    ]
    assert plan_steps(groups, batch_size=7, epochs=2, seed=seed).order.tolist() == expected


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


def test_kinds_appear_in_the_datas_proportions_in_every_window() -> None:
    """LLaVA's mix (58 conversations : 23 details : 77 reasoning), written kind after kind, about two a picture."""
    kinds = ["conversation"] * 2320 + ["detail"] * 920 + ["reasoning"] * 3080
    pictures = [int(i) for i in np.random.default_rng(0).integers(0, 3240, size=len(kinds))]
    plan = plan_steps(pictures, batch_size=128, epochs=1, seed=5)
    share = {kind: kinds.count(kind) / len(kinds) for kind in set(kinds)}
    windows = [Counter(kinds[i] for i in plan.members(step)) for step in range(len(plan) - 1)]
    for kind, expected in share.items():
        found = np.array([window[kind] / 128 for window in windows])
        spread = (expected * (1 - expected) / 128) ** 0.5
        # Were the file's order kept, whole windows would hold one kind: dozens of standard deviations off.
        assert np.abs(found - expected).max() < 4.5 * spread
        assert abs(found.mean() - expected) < spread / 4
        assert 0.7 * spread < found.std() < 1.4 * spread


def test_workers_see_a_budget_change() -> None:
    """A real worker process behind a real `datasets` transform, as the trainer has them."""
    budget = TokenBudget(4096)
    rows = Dataset.from_dict({"step": list(range(12))}).with_transform(
        lambda batch: {"budget": [budget.tokens for _ in batch["step"]]}
    )
    loader = DataLoader(rows, batch_size=1, num_workers=1, prefetch_factor=2, collate_fn=lambda batch: batch[0])
    seen = []
    for row in loader:
        seen.append(row["budget"])
        budget.set(2048 if len(seen) < 8 else None)
    assert seen[0] == 4096
    assert seen[6] == 2048
    assert seen[-1] is None


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
        budget=TokenBudget(400),
    )


def test_a_picture_that_breaks_takes_its_samples_with_it(tmp_path: Path) -> None:
    names = ["a.png", "b.png", "c.png"]
    for number, name in enumerate(names):
        Image.effect_noise((20 + number, 20), 90).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:100])
    made = builder(tmp_path, names)
    built = made.build(0)
    packs, rejected = built["packs"], built["rejected"]
    assert sorted(sample for sample, _ in rejected) == ["b.png-0", "b.png-1"]
    assert all(f"image {tmp_path / 'b.png'} cannot be read" in reason for _, reason in rejected)
    assert sum(pack["tree"].samples for pack in packs) == 4
    shown = [name for pack in packs for name in pack["tree"].images]
    assert sorted(shown) == ["a.png", "c.png"]
    for pack in packs:
        for name, pixels in zip(pack["tree"].images, pack["pixels"], strict=True):
            assert np.array_equal(pixels, to_pixels(made.image_processor, open_image(tmp_path / name)))


def test_a_step_may_lose_everything(tmp_path: Path) -> None:
    built = builder(tmp_path, ["gone.png"]).build(0)
    assert built["packs"] == []
    assert len(built["rejected"]) == 2
    step = collate_step([built])
    assert (step["packs"], step["supervised"], step["samples"], step["tokens"]) == ([], 0, 0, 0)
    assert step["rejected"] == built["rejected"]
