"""Our own contender: real steps through the trainer, collator and packing that `qllava train` uses."""

from __future__ import annotations

from pathlib import Path

from qllava.bench.clock import StepClock
from qllava.bench.matmul import matmul_tflops
from qllava.bench.profiling import ProfileStep
from qllava.bench.spec import BenchSpec, Measured
from qllava.checkpoint.weights import llava_of
from qllava.data.formats import load_conversations
from qllava.data.images import pixel_statistics
from qllava.data.steps import StepBuilder, StepPlan, TokenBudget, plan_steps
from qllava.model.build import input_embeddings
from qllava.model.fusion import fuse_layers
from qllava.plan.device import DeviceProbe, probe_devices, processor
from qllava.plan.plan import Plan, make_plan
from qllava.train.arguments import trainer_arguments
from qllava.train.health import Health
from qllava.train.kernels import fixed_attention
from qllava.train.optimizer import choose_optimizer
from qllava.train.parts import Parts
from qllava.train.room import Room
from qllava.train.saving import Saver
from qllava.train.stalled import STALLED_AFTER
from qllava.train.steps import data_workers
from qllava.train.trainer import Normalization, StageTrainer
from qllava.types import STAGE_FILES


def measure_ours(spec: BenchSpec, parts: Parts, scratch: Path) -> Measured:
    """One warm-up step and `spec.steps` counted ones, and a profiled one if asked for."""
    recipe, stage = spec.parsed_recipe(), spec.parsed_recipe().stage(spec.stage)
    plan = bench_plan(spec)
    room = Room(max(plan.token_budget, recipe.data.max_length), plan.checkpoint_every)
    if not spec.setting.pack:
        room = Room(None, plan.checkpoint_every)
    conversations = load_conversations(Path(spec.data) / STAGE_FILES[spec.stage])
    builder = StepBuilder(
        conversations=conversations,
        plan=step_plan(spec),
        encoder=parts.encoder,
        image_root=Path(spec.data) / "pictures",
        image_processor=parts.image_processor,
        max_length=recipe.data.max_length,
        budget=TokenBudget(room.token_budget),
    )
    clock = StepClock()
    profiler = ProfileStep(input_embeddings(parts.model).num_embeddings, at_step=spec.steps + 1)
    trainer = StageTrainer(
        model=parts.model,
        args=trainer_arguments(
            scratch,
            steps=spec.steps + 1 + int(spec.profile),
            learning_rate=stage.learning_rate,
            scheduler=stage.scheduler,
            warmup_ratio=0.0,
            weight_decay=stage.weight_decay,
            max_grad_norm=stage.max_grad_norm,
            save_steps=10**9,  # once, at the end, after the clock has stopped
            seed=recipe.seed,
            device=spec.device,
            workers=data_workers(recipe.data.workers),
            report_to=[],
        ),
        builder=builder,
        room=room,
        tokenizer=parts.encoder.tokenizer,
        normalization=Normalization(*pixel_statistics(parts.image_processor)),
        learning_rate=stage.learning_rate,
        projector_learning_rate=stage.projector_learning_rate or stage.learning_rate,
        make_saver=lambda trained: Saver(
            scratch,
            keep=1,
            every=10**9,
            total=spec.steps,
            trained=trained,
            view=_Nobody(),
            heldout_loss=None,
            saved=lambda step: None,
        ),
        health=Health(scratch, members=lambda step: [], view=_Nobody(), advice="{file}"),
        stalled_after=STALLED_AFTER,
        optimizer=choose_optimizer(recipe.train.optimizer, device=spec.device, fits=plan.fits),
        callbacks=[clock, *([profiler] if spec.profile else [])],
    )
    kernel = fixed_attention(recipe.train.attention, device=spec.device, token_budget=room.token_budget)
    trainer.set_attention(kernel or "sdpa")
    if recipe.train.compile and spec.device == "cuda":
        fuse_layers(llava_of(parts.model))
    trainer.train()
    counted = clock.logs[1 : spec.steps + 1]
    members = [conversations[i] for step in range(1, spec.steps + 1) for i in builder.plan.members(step)]
    shown = [conversation.images for conversation in members]
    return Measured(
        seconds=clock.ends[spec.steps] - clock.ends[0],
        cpu_seconds=clock.cpu_ends[spec.steps] - clock.cpu_ends[0],
        samples=sum(int(figures["samples"]) for figures in counted),
        pictures=len(set(shown)) if spec.setting.pack else len(shown),
        tokens=sum(int(figures["tokens"]) for figures in counted),
        supervised_tokens=sum(int(figures["supervised_tokens"]) for figures in counted),
        peak_bytes=clock.peaks[spec.steps],
        loss=counted[-1]["loss"],
        matmul_tflops=matmul_tflops(spec.device),
        checkpoint_every=trainer.room.checkpoint_every,
        token_budget=trainer.room.token_budget or 0,
        shares=profiler.shares if spec.profile else {},
    )


class _Nobody:
    """A view that nobody looks at."""

    def note(self, name: str, value: object, why: str = "", flag: str = "") -> None:
        """Nothing."""

    def status(self, text: str) -> None:
        """Nothing."""

    def start(self, *, steps: int, done: int) -> None:
        """Nothing."""

    def step(self, figures: dict[str, float]) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""


def step_plan(spec: BenchSpec) -> StepPlan:
    """Which samples each step holds: the same for every contender."""
    conversations = load_conversations(Path(spec.data) / STAGE_FILES[spec.stage])
    groups = [conversation.images for conversation in conversations]
    return plan_steps(groups, batch_size=spec.batch_size, epochs=1, seed=spec.parsed_recipe().seed)


def bench_plan(spec: BenchSpec) -> Plan:
    """Policy and token budget as `qllava train` would choose them."""
    probe: DeviceProbe = probe_devices() if spec.device == "cuda" else processor()
    return make_plan(spec.parsed_recipe(), spec.stage, probe, vram_gib=spec.vram_gib)
