"""All optimizer steps of a run: from the newest checkpoint, until the last or a signal."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from pickle import UnpicklingError

from qllava.checkpoint.manifest import Manifest
from qllava.checkpoint.saved import checkpoint_folders, read_seal
from qllava.checkpoint.weights import llava_of
from qllava.data.images import pixel_statistics
from qllava.data.steps import StepBuilder, TokenBudget
from qllava.errors import QllavaError, RunError
from qllava.model.fusion import fuse_layers
from qllava.plan.plan import Plan
from qllava.recipe import Recipe
from qllava.train.arguments import trainer_arguments
from qllava.train.callbacks import Figures, StopOnSignal, TrainView
from qllava.train.fitting import Fitting, SpillWatch, planned_room
from qllava.train.health import BrokenTrainingError, Health
from qllava.train.heldout import heldout_loss
from qllava.train.optimizer import choose_optimizer
from qllava.train.parts import Parts
from qllava.train.request import TrainRequest
from qllava.train.room import Room
from qllava.train.samples import Samples
from qllava.train.saving import Saver
from qllava.train.stalled import STALLED_AFTER, explain_worker_failure
from qllava.train.trainer import Normalization, StageTrainer
from qllava.types import STAGE_NAMES

STAGE_NUMBERS = {name: number for number, name in STAGE_NAMES.items()}


class InterruptedRunError(QllavaError):
    """The run was stopped by a signal; the text says what is saved. Its exit code is the shell's (130 or 143)."""

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
        InterruptedRunError: a signal came; after saving, if that was possible.
        BrokenTrainingError: loss, gradients or weights are no longer numbers.
        DataError: a data worker is stuck; names the sample.
    """
    checkpoints = checkpoint_folders(folder)
    stop = StopOnSignal()
    builder, trainer = _ready(request, folder, manifest, plan, samples, parts, view, stop)
    at_once = False
    stop.install()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if checkpoints else None)
    except KeyboardInterrupt:
        if stop.received is None:
            raise
        at_once = True
    except BrokenTrainingError:
        _interrupted(folder, manifest, trainer.saver.last_step())
        raise
    except UnpicklingError as error:
        raise RunError(
            f"{checkpoints[-1]} is refused: it holds more than tensors and could run code; do not continue runs of "
            "people you do not trust"
        ) from error
    except RuntimeError as error:
        step = trainer.state.global_step
        explained = explain_worker_failure(error, builder, steps=(step, step + 1))
        if explained is None:
            raise
        _interrupted(folder, manifest, trainer.saver.last_step())
        raise explained from error
    finally:
        stop.remove()
        view.stop()
    if stop.received is not None and (at_once or trainer.state.global_step < len(samples.steps)):
        saved = trainer.saver.last_step()
        _interrupted(folder, manifest, saved)
        said = _how_far(trainer, saved, len(samples.steps), at_once=at_once)
        raise InterruptedRunError(f"{said}; continue with `{request.command}`", stop.received)
    return trainer


def _ready(
    request: TrainRequest,
    folder: Path,
    manifest: Manifest,
    plan: Plan,
    samples: Samples,
    parts: Parts,
    view: TrainView,
    stop: StopOnSignal,
) -> tuple[StepBuilder, StageTrainer]:
    """The builder of the steps and the trainer around the model, with the room that fits."""
    recipe, stage = request.recipe, request.recipe.stage(request.stage)
    start = _first_room(folder, plan, recipe)
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
        optimizer=optimizer,
        on_smaller=fitting.shrunk,
        make_saver=lambda trained: Saver(
            folder,
            keep=stage.keep_checkpoints,
            every=stage.save_steps,
            total=len(samples.steps),
            trained=trained,
            view=view,
            heldout_loss=heldout_loss(request, builder, parts, view),
            saved=lambda step: _saved(folder, manifest, step),
        ),
        health=Health(
            folder,
            members=lambda step: [samples.conversations[index] for index in samples.steps.members(step)],
            view=view,
            advice=f"qllava data show {{file}} --stage {STAGE_NUMBERS[request.stage]} --recipe {folder}/recipe.yaml",
        ),
        stalled_after=STALLED_AFTER,
        callbacks=[Figures(folder, view), stop, *([watch] if parts.device == "cuda" else [])],
    )
    view.note("trained parameters", f"{trainer.trainable_parameters:,}", "fp32; everything else is frozen")
    trainer.saver.warn_if_tight()
    watch.trainer = trainer
    if recipe.train.compile and parts.device == "cuda":
        fuse_layers(llava_of(parts.model))
    elif recipe.train.compile:
        view.note("fusion", "off", "train.compile is for NVIDIA cards")
    longest = samples.findings.longest if samples.findings.complete else recipe.data.max_length
    fitting.begin(trainer, builder, start=start, longest=longest, optimizer=optimizer)
    return builder, trainer


def _first_room(folder: Path, plan: Plan, recipe: Recipe) -> Room:
    """What packs may take at first: as the newest checkpoint has it, for another budget sums in another order."""
    checkpoints = checkpoint_folders(folder)
    if not checkpoints:
        return planned_room(plan, recipe)
    facts = read_seal(checkpoints[-1]).facts
    return Room(facts["token_budget"], facts["checkpoint_every"])


def _how_far(trainer: StageTrainer, saved: int, total: int, *, at_once: bool) -> str:
    """Where a signal stopped the run, and what is on the disk."""
    step = trainer.state.global_step
    if at_once:
        return f"stopped at once in step {step + 1} of {total}, saved up to step {saved}"
    if saved == step:
        return f"stopped and saved at step {step} of {total}"
    return f"stopped at step {step}, NOT saved ({trainer.saver.failure}); step {saved} is kept, free some space"


def data_workers(configured: int | None) -> int:
    """Processes that decode and tokenise ahead; none on two cores, where they would only take turns with training."""
    if configured is not None:
        return configured
    cores = len(os.sched_getaffinity(0))
    return 0 if cores <= 2 else min(4, cores // 2)


def _interrupted(folder: Path, manifest: Manifest, step: int) -> None:
    # On a full disk it stays `running`, which continues just the same.
    with contextlib.suppress(OSError):
        manifest.with_changes(status="interrupted", steps=step).write(folder)


def _saved(folder: Path, manifest: Manifest, step: int) -> None:
    manifest.with_changes(steps=step).write(folder)
