"""All optimizer steps of a run: from the newest checkpoint, until the last or a signal."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from pickle import UnpicklingError

from qllava.checkpoint.manifest import Manifest
from qllava.checkpoint.saved import checkpoint_folders, read_seal
from qllava.data.images import pixel_statistics
from qllava.data.steps import StepBuilder, step_dataset
from qllava.errors import QllavaError, RunError
from qllava.plan.plan import Plan
from qllava.train.callbacks import Figures, StopOnSignal, TrainView
from qllava.train.health import BrokenTrainingError, Health
from qllava.train.heldout import heldout_loss
from qllava.train.parts import Parts
from qllava.train.request import TrainRequest
from qllava.train.samples import Samples
from qllava.train.saving import Saver
from qllava.train.stalled import STALLED_AFTER, explain_worker_failure
from qllava.train.trainer import Normalization, StageTrainer, trainer_arguments
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
    recipe, stage = request.recipe, request.recipe.stage(request.stage)
    checkpoints = checkpoint_folders(folder)
    # Another budget sums in another order: what a run began with it goes on with.
    facts = {"token_budget": max(plan.token_budget, recipe.data.max_length)}
    if checkpoints:
        facts["token_budget"] = read_seal(checkpoints[-1]).facts["token_budget"]
    builder = StepBuilder(
        conversations=samples.conversations,
        plan=samples.steps,
        encoder=parts.encoder,
        image_root=request.data.image_root,
        image_processor=parts.image_processor,
        max_length=recipe.data.max_length,
        token_budget=facts["token_budget"],
    )
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
            checkpoint_every=plan.checkpoint_every,
            seed=recipe.seed,
            device=parts.device,
            workers=data_workers(recipe.data.workers),
            report_to=list(request.report_to),
        ),
        train_dataset=step_dataset(builder),
        tokenizer=parts.encoder.tokenizer,
        normalization=Normalization(*pixel_statistics(parts.image_processor)),
        learning_rate=stage.learning_rate,
        projector_learning_rate=stage.projector_learning_rate or stage.learning_rate,
        facts=facts,
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
        callbacks=[Figures(folder, view), stop],
    )
    view.note("trained parameters", f"{trainer.trainable_parameters:,}", "fp32; everything else is frozen")
    trainer.saver.warn_if_tight()
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
        saved, step = trainer.saver.last_step(), trainer.state.global_step
        _interrupted(folder, manifest, saved)
        if at_once:
            said = f"stopped at once in step {step + 1} of {len(samples.steps)}, saved up to step {saved}"
        elif saved == step:
            said = f"stopped and saved at step {step} of {len(samples.steps)}"
        else:
            said = f"stopped at step {step}, NOT saved ({trainer.saver.failure}); step {saved} is kept, free some space"
        raise InterruptedRunError(f"{said}; continue with `{request.command}`", stop.received)
    return trainer


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
