"""All optimizer steps of a run: from the newest checkpoint, until the last or a signal."""

from __future__ import annotations

import os
from pathlib import Path

from qllava.checkpoint.manifest import Manifest
from qllava.checkpoint.weights import llava_of
from qllava.data.images import pixel_statistics
from qllava.data.steps import StepBuilder, TokenBudget
from qllava.errors import QllavaError
from qllava.model.fusion import fuse_layers
from qllava.plan.plan import Plan
from qllava.train.callbacks import AfterSave, Figures, StopOnSignal, TrainView
from qllava.train.fitting import Fitting, SpillWatch, planned_room
from qllava.train.optimizer import choose_optimizer
from qllava.train.parts import Parts
from qllava.train.request import TrainRequest
from qllava.train.samples import Samples
from qllava.train.trainer import Normalization, StageTrainer, checkpoint_folders, trainer_arguments


class InterruptedRunError(QllavaError):
    """The run was stopped by a signal after saving; its exit code is the shell's (130 or 143)."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def run_steps(
    request: TrainRequest,
    folder: Path,
    manifest: Manifest,
    plan: Plan,
    samples: Samples,
    parts: Parts,
    view: TrainView,
) -> StageTrainer:
    """All optimizer steps, from the newest checkpoint if there is one.

    Raises:
        InterruptedRunError: after saving.
    """
    recipe, stage = request.recipe, request.recipe.stage(request.stage)
    start = planned_room(plan, recipe)
    builder = StepBuilder(
        conversations=samples.conversations,
        plan=samples.steps,
        encoder=parts.encoder,
        image_root=request.data.image_root,
        image_processor=parts.image_processor,
        max_length=recipe.data.max_length,
        budget=TokenBudget(start.token_budget),
    )
    optimizer = choose_optimizer(recipe.train.optimizer, device=parts.device, fits=plan.fits)
    if optimizer != "adamw":
        view.note("optimizer", optimizer, "AdamW's fp32 states do not fit", "--optimizer")
    fitting = Fitting(folder, view, device=plan.device, vram_gib=request.vram_gib, attention=recipe.train.attention)
    watch = SpillWatch(fitting)
    stop = StopOnSignal()
    trainer = StageTrainer(
        model=parts.model,
        args=trainer_arguments(
            folder,
            steps=len(samples.steps),
            learning_rate=stage.learning_rate,
            scheduler=stage.scheduler,
            warmup_ratio=stage.warmup_ratio,
            weight_decay=stage.weight_decay,
            max_grad_norm=stage.max_grad_norm,
            save_steps=stage.save_steps,
            seed=recipe.seed,
            device=parts.device,
            workers=data_workers(recipe.data.workers),
            report_to=list(request.report_to),
        ),
        builder=builder,
        room=start,
        tokenizer=parts.encoder.tokenizer,
        normalization=Normalization(*pixel_statistics(parts.image_processor)),
        learning_rate=stage.learning_rate,
        projector_learning_rate=stage.projector_learning_rate or stage.learning_rate,
        keep_checkpoints=stage.keep_checkpoints,
        optimizer=optimizer,
        on_smaller=fitting.shrunk,
        callbacks=[
            Figures(folder, view),
            stop,
            *([watch] if parts.device == "cuda" else []),
            AfterSave(lambda step: _saved(folder, manifest, step)),
        ],
    )
    view.note("trained parameters", f"{trainer.trainable_parameters:,}", "fp32; everything else is frozen")
    watch.trainer = trainer
    if recipe.train.compile and parts.device == "cuda":
        fuse_layers(llava_of(parts.model))
    elif recipe.train.compile:
        view.note("fusion", "off", "train.compile is for NVIDIA cards")
    longest = samples.findings.longest if samples.findings.complete else recipe.data.max_length
    fitting.begin(trainer, builder, start=start, longest=longest, optimizer=optimizer)
    checkpoints = checkpoint_folders(folder)
    stop.install()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if checkpoints else None)
    finally:
        stop.remove()
        view.stop()
    if stop.received is not None and trainer.state.global_step < len(samples.steps):
        step = trainer.state.global_step
        manifest.with_changes(status="interrupted", steps=step).write(folder)
        raise InterruptedRunError(
            f"stopped and saved at step {step} of {len(samples.steps)}; continue with `{request.command}`",
            stop.received,
        )
    return trainer


def data_workers(configured: int | None) -> int:
    """Processes that decode and tokenise ahead; none on two cores, where they would only take turns with training."""
    if configured is not None:
        return configured
    cores = len(os.sched_getaffinity(0))
    return 0 if cores <= 2 else min(4, cores // 2)


def _saved(folder: Path, manifest: Manifest, step: int) -> None:
    manifest.with_changes(steps=step).write(folder)
