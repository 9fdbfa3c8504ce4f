"""The probe runs the worst pack through a real model and leaves no trace; the card's memory is simulated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qllava.checkpoint.load import build_encoder
from qllava.checkpoint.weights import llava_of
from qllava.data.chat_template import stage_template
from qllava.data.images import build_image_processor, pixel_statistics
from qllava.data.packing import pack_samples
from qllava.data.steps import StepBuilder, TokenBudget
from qllava.train import trainer as trainer_module
from qllava.train.arguments import trainer_arguments
from qllava.train.parts import build_parts
from qllava.train.probe import PackShape, densest, pack_shape, probe_room, worst_pack
from qllava.train.room import Room
from qllava.train.samples import open_samples
from qllava.train.trainer import Normalization, StageTrainer
from tests.packs import random_encoded
from tests.train.workspace import SilentView, make_workspace, quiet_saving, request


@pytest.fixture
def trainer(tmp_path: Path) -> StageTrainer:
    """Stage 1 on tiny models, constructed and not yet run."""
    asked = request(make_workspace(tmp_path), "align")
    recipe = asked.recipe
    encoder = build_encoder(recipe, template=stage_template(recipe.template, recipe.align_template, "align"))
    samples = open_samples(asked, tmp_path / "new", encoder, SilentView())
    parts = build_parts(asked, encoder, build_image_processor(recipe.model.vision_tower, "pad"))
    builder = StepBuilder(
        conversations=samples.conversations,
        plan=samples.steps,
        encoder=encoder,
        image_root=asked.data.image_root,
        image_processor=parts.image_processor,
        max_length=256,
        budget=TokenBudget(512),
    )
    stage = recipe.align
    return StageTrainer(
        model=parts.model,
        args=trainer_arguments(
            tmp_path / "run",
            steps=len(samples.steps),
            learning_rate=stage.learning_rate,
            scheduler=stage.scheduler,
            warmup_ratio=0.0,
            weight_decay=0.0,
            max_grad_norm=1.0,
            save_steps=5,
            seed=1,
            device="cpu",
            workers=0,
            report_to=[],
        ),
        builder=builder,
        room=Room(512, None),
        tokenizer=encoder.tokenizer,
        normalization=Normalization(*pixel_statistics(parts.image_processor)),
        learning_rate=1e-3,
        projector_learning_rate=1e-3,
        **quiet_saving(tmp_path / "run"),
        optimizer="adamw",
        callbacks=[],
    )


class FakeMeter:
    """Reports what a card would: so much a token, less with checkpointing."""

    def __init__(self, trainer: StageTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trainer, self.packs = trainer, list[tuple[int, int | None]]()
        real = trainer_module.loss_sum

        def counted(model: object, pack: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            every = trainer.room.checkpoint_every
            self.packs.append((len(pack["input_ids"]), every))
            if self.packs[-1][0] * (2 if every else 10) > 9000:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(model, pack)  # type: ignore[arg-type]

        monkeypatch.setattr(trainer_module, "loss_sum", counted)

    def reset(self) -> None:
        pass

    def peak(self) -> int:
        tokens, every = self.packs[-1]
        return tokens * (2 if every else 10)


def test_the_probe_measures_real_steps_and_leaves_no_trace(
    trainer: StageTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    llava = llava_of(trainer.model)
    before = {name: tensor.clone() for name, tensor in llava.state_dict().items()}
    randomness = torch.get_rng_state()
    meter = FakeMeter(trainer, monkeypatch)
    found = probe_room(trainer, trainer._builder, start=Room(512, None), longest=256, limit=8000, meter=meter)
    assert found is not None
    assert found.room.checkpoint_every is None
    assert found.room.token_budget is not None
    assert 700 <= found.room.token_budget <= 800  # 8000 / 10
    assert found.peak == found.room.token_budget * 10
    # Two passes each, on exactly as many tokens as asked.
    assert meter.packs[0] == meter.packs[1] == (256, None)
    assert torch.equal(torch.get_rng_state(), randomness)
    assert all(parameter.grad is None for parameter in llava.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in llava.state_dict().items())


def test_what_fits_under_no_policy_is_none(trainer: StageTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = FakeMeter(trainer, monkeypatch)
    args = {"start": Room(512, None), "longest": 256, "meter": meter}
    assert probe_room(trainer, trainer._builder, limit=100, **args) is None  # type: ignore[arg-type]
    leaner = probe_room(trainer, trainer._builder, limit=2000, **args)  # type: ignore[arg-type]
    assert leaner is not None
    assert leaner.room.checkpoint_every == 4


def test_the_worst_pack_is_as_dense_as_the_densest() -> None:
    rng = np.random.default_rng(0)
    images = [f"p{i}" for i in rng.integers(0, 20, size=60)] + [None] * 10
    samples = [random_encoded(rng, image=image, image_token_id=350, patches=16) for image in images]
    packs = pack_samples(samples, image_token_id=350, token_budget=200)
    shape = densest(packs)
    for tokens in (100, 200, 1000, 1001):
        pack = worst_pack(shape, tokens, image_token_id=350, image_tokens=16, size=(32, 32))
        assert len(pack["input_ids"]) == len(pack["segment"]) == len(pack["position_ids"]) == tokens
        assert len(pack["source"]) == len(pack["target"]) >= max(len(p.target) / len(p) for p in packs) * tokens - 1
        assert len(pack["parent"]) > 1
        assert int((pack["input_ids"] == 350).sum()) == len(pack["pixel_values"]) * 16
        assert len(pack["pixel_values"]) >= min(max(len(p.images) / len(p) for p in packs) * tokens, tokens // 16) - 1
        assert int(pack["source"].max()) < tokens
    text = worst_pack(PackShape(1.0, 0.0), 64, image_token_id=350, image_tokens=16, size=(32, 32))
    assert "pixel_values" not in text
    assert len(text["target"]) == 64


def test_the_shape_is_that_of_full_packs(trainer: StageTrainer) -> None:
    shape = pack_shape(trainer._builder, 60)
    steps = range(len(trainer._builder.plan))
    packs = [pack for step in steps for pack in trainer._builder.pack(step, 60)[0]]
    assert shape == densest([pack for pack in packs if len(pack) >= 30])
    assert shape.images > 0
