"""A training run as a table of contents: claim, open, plan, build, train, look, save."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from peft import PeftModel
from transformers import BaseImageProcessor, LlavaForConditionalGeneration

from qllava.checkpoint.load import build_encoder, verify_files
from qllava.checkpoint.manifest import Manifest, Run, read_run
from qllava.checkpoint.weights import (
    ADAPTER_CONFIG,
    ADAPTER_FILE,
    PROJECTOR_FILE,
    llava_of,
    load_projector,
    save_trained,
)
from qllava.data.audit import Audit, audit
from qllava.data.chat_template import load_chat_template, stage_template
from qllava.data.encode import ChatEncoder
from qllava.data.images import build_image_processor, pixel_statistics
from qllava.data.steps import Conversations, StepBuilder, StepPlan, plan_steps, step_dataset
from qllava.errors import QllavaError
from qllava.evaluate.sees import PictureGain, picture_gain
from qllava.files import sha256
from qllava.model.build import assemble, vision_config
from qllava.model.embedded import resolve_model
from qllava.model.lora import add_lora
from qllava.model.processor import build_processor
from qllava.plan.plan import Plan, make_plan
from qllava.report.loss_curve import write_loss_curve
from qllava.train.callbacks import METRICS_FILE, AfterSave, Figures, StopOnSignal, TrainView
from qllava.train.request import TrainRequest, check_source, claim_run, recipe_digest, source_entry
from qllava.train.trainer import Normalization, StageTrainer, checkpoint_folders, trainer_arguments
from qllava.train.warm_start import fit_to_captions

# Enough pictures for a stable mean, few enough to cost seconds.
LOOK_SAMPLES = 32
# A word counts as told by the pictures from this explained share of its variance on.
WORD_TOLD = 0.1
REJECTED_FILE = "rejected.jsonl"
LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")


class InterruptedRunError(QllavaError):
    """The run was stopped by a signal after saving; its exit code is the shell's (130 or 143)."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


@dataclass(frozen=True)
class Samples:
    """The data of a run, checked."""

    conversations: Conversations
    steps: StepPlan
    audit: Audit


@dataclass(frozen=True)
class Outcome:
    """A finished run; `rejected` maps the ids of samples that were left out to the reason."""

    run: Run
    gain: PictureGain | None
    rejected: dict[str, str]


def train(request: TrainRequest, view: TrainView) -> Outcome:
    """Train one stage, or continue it, and leave a finished run folder.

    Raises:
        InterruptedRunError: a signal came; the run is saved and can be continued with the same command.
        QllavaError: data, model, device or run folder cannot be used.
    """
    if request.source is not None:
        check_source(request.recipe, request.source)
        verify_files(request.source)
    folder, unfinished = claim_run(request)
    encoder = build_encoder(
        request.recipe, template=stage_template(request.recipe.template, request.recipe.align_template, request.stage)
    )
    samples = open_samples(request, encoder, view)
    plan = make_plan(request.recipe, request.stage, request.probe, len(samples.conversations), request.vram_gib)
    image_processor = build_image_processor(
        resolve_model(request.recipe.model.vision_tower), request.recipe.data.image_aspect
    )
    manifest = open_run(request, folder, unfinished, samples, encoder, image_processor)
    view.note("run", folder, "continued" if unfinished else "new", "--new")
    with log_file(folder):
        view.status("loading the model")
        model = build_model(request, encoder, device=device_of(request))
        start_projector(request, folder, samples, model, encoder, image_processor, view)
        trainer = run_steps(request, folder, manifest, plan, samples, model, encoder, image_processor, view)
        view.status("checking whether the picture matters")
        gain = look(request, samples, model, encoder, image_processor)
        rejected = dict(samples.audit.rejected) | trainer.rejected
        finish_run(request, folder, manifest, model, encoder, image_processor, gain, rejected)
    return Outcome(read_run(folder), gain, rejected)


def open_samples(request: TrainRequest, encoder: ChatEncoder, view: TrainView) -> Samples:
    """Open the data, leave out what stage 1 cannot use, check it, and decide what every step holds."""
    recipe, stage = request.recipe, request.recipe.stage(request.stage)
    view.status("reading the data")
    checked = audit(
        request.conversations, encoder, max_length=recipe.data.max_length, needs_image=request.stage == "align"
    )
    if checked.text_only:
        view.note("text-only rows", checked.text_only, "left out: stage 1 is about pictures")
    if checked.rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in checked.reasons.most_common())
        view.note("left out", f"{len(checked.rejected)} of {checked.examined} samples examined", reasons)
    steps = plan_steps(
        checked.groups,
        batch_size=stage.batch_size,
        epochs=stage.epochs,
        seed=recipe.seed,
        max_steps=stage.max_steps,
    )
    return Samples(checked.usable, steps, checked)


def open_run(
    request: TrainRequest,
    folder: Path,
    unfinished: Run | None,
    samples: Samples,
    encoder: ChatEncoder,
    image_processor: BaseImageProcessor,
) -> Manifest:
    """Make the folder with its recipe and manifest, or take the one that is there."""
    if unfinished is not None:
        return unfinished.manifest.with_changes(status="running").write(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(request.recipe.to_yaml(), encoding="utf-8")
    return Manifest(
        stage=request.stage,
        status="running",
        recipe=recipe_digest(request.recipe),
        data={
            "path": request.data.path,
            "sha256": request.data.digest,
            "image_root": str(request.data.image_root),
            "samples": len(samples.conversations),
        },
        model={
            **request.recipe.model.model_dump(),
            "image_token_id": encoder.image_token_id,
            # By name: the generic class changes its backend, and with it its pixels, with what is installed.
            "image_processor": type(image_processor).__name__,
        },
        source=source_entry(request.source),
        total_steps=len(samples.steps),
        command=request.command,
        versions={name: version(name) for name in LIBRARIES},
    ).write(folder)


def build_model(
    request: TrainRequest, encoder: ChatEncoder, *, device: str
) -> PeftModel | LlavaForConditionalGeneration:
    """The frozen model of the stage: a fresh projector in stage 1; the aligned one and fresh LoRA in stage 2."""
    recipe = request.recipe
    model = assemble(
        **recipe.model.model_dump(), image_token_id=encoder.image_token_id, device=device, seed=recipe.seed
    )
    if request.source is None:
        return model
    load_projector(model, request.source.folder)
    lora = recipe.lora
    return add_lora(model, rank=lora.rank, alpha=lora.scaling_alpha, dropout=lora.dropout, seed=recipe.seed)


def start_projector(
    request: TrainRequest,
    folder: Path,
    samples: Samples,
    model: PeftModel | LlavaForConditionalGeneration,
    encoder: ChatEncoder,
    image_processor: BaseImageProcessor,
    view: TrainView,
) -> None:
    """Fit a new projector to the captions where the recipe says so; one that was trained already is left alone."""
    if request.stage != "align" or request.recipe.align_start == "random" or checkpoint_folders(folder):
        return
    view.status("fitting the projector to the captions")
    fit = fit_to_captions(
        llava_of(model),
        samples.conversations,
        encoder=encoder,
        image_processor=image_processor,
        image_root=request.data.image_root,
        max_length=request.recipe.data.max_length,
        device=device_of(request),
    )
    if not any(fit.values()):
        view.note("projector start", "random", "no word that enough captions have follows from the pictures")
        return
    told = sum(share >= WORD_TOLD for share in fit.values())
    why = f"the pictures tell {told} of its {len(fit)} frequent words"
    view.note("projector start", "fitted to the captions", why, "--set align_start=random")


def run_steps(
    request: TrainRequest,
    folder: Path,
    manifest: Manifest,
    plan: Plan,
    samples: Samples,
    model: PeftModel | LlavaForConditionalGeneration,
    encoder: ChatEncoder,
    image_processor: BaseImageProcessor,
    view: TrainView,
) -> StageTrainer:
    """All optimizer steps, from the newest checkpoint if there is one.

    Raises:
        InterruptedRunError: after saving.
    """
    recipe, stage = request.recipe, request.recipe.stage(request.stage)
    device = device_of(request)
    builder = StepBuilder(
        conversations=samples.conversations,
        plan=samples.steps,
        encoder=encoder,
        image_root=request.data.image_root,
        image_processor=image_processor,
        max_length=recipe.data.max_length,
        token_budget=max(plan.token_budget, recipe.data.max_length),
    )
    stop = StopOnSignal()
    trainer = StageTrainer(
        model=model,
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
            device=device,
            workers=data_workers(recipe.data.workers),
            report_to=list(request.report_to),
        ),
        train_dataset=step_dataset(builder),
        tokenizer=encoder.tokenizer,
        normalization=Normalization(*pixel_statistics(image_processor)),
        learning_rate=stage.learning_rate,
        projector_learning_rate=stage.projector_learning_rate or stage.learning_rate,
        keep_checkpoints=stage.keep_checkpoints,
        callbacks=[
            Figures(folder, view),
            stop,
            AfterSave(lambda step: _saved(folder, manifest, step)),
        ],
    )
    view.note("trained parameters", f"{trainer.trainable_parameters:,}", "fp32; everything else is frozen")
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


def look(
    request: TrainRequest,
    samples: Samples,
    model: PeftModel | LlavaForConditionalGeneration,
    encoder: ChatEncoder,
    image_processor: BaseImageProcessor,
) -> PictureGain | None:
    """Score a few samples, spread over the data, with the right and with another picture."""
    conversations = samples.conversations
    stride = max(1, len(conversations) // LOOK_SAMPLES)
    chosen = [conversations[i] for i in range(0, len(conversations), stride)][:LOOK_SAMPLES]
    return picture_gain(
        model,
        chosen,
        encoder=encoder,
        image_processor=image_processor,
        image_root=request.data.image_root,
        max_length=request.recipe.data.max_length,
        device=device_of(request),
    )


def finish_run(
    request: TrainRequest,
    folder: Path,
    manifest: Manifest,
    model: PeftModel | LlavaForConditionalGeneration,
    encoder: ChatEncoder,
    image_processor: BaseImageProcessor,
    gain: PictureGain | None,
    rejected: dict[str, str],
) -> None:
    """Write weights, processor, curve and what was left out; the manifest comes last: `finished` means complete."""
    if rejected:
        lines = (json.dumps({"id": sample, "reason": reason}) + "\n" for sample, reason in rejected.items())
        (folder / REJECTED_FILE).write_text("".join(lines), encoding="utf-8")
    save_trained(model, folder)
    tower = vision_config(llava_of(model))
    build_processor(
        image_processor=image_processor,
        tokenizer=encoder.tokenizer,
        chat_template=load_chat_template(request.recipe.template).source,
        patch_size=tower.patch_size,
        patches=request.recipe.model.patches,
        has_cls=tower.model_type == "clip_vision_model",
    ).save_pretrained(folder)
    write_loss_curve(folder / METRICS_FILE, folder / "loss.png")
    weights = [name for name in (PROJECTOR_FILE, ADAPTER_FILE, ADAPTER_CONFIG) if (folder / name).is_file()]
    manifest.with_changes(
        status="finished",
        steps=manifest.total_steps,
        files={name: sha256(folder / name) for name in weights},
        picture={"right": gain.right, "shuffled": gain.shuffled} if gain else {},
    ).write(folder)


def device_of(request: TrainRequest) -> str:
    """`cuda` or `cpu`."""
    return "cuda" if request.probe.kind == "cuda" else "cpu"


def data_workers(configured: int | None) -> int:
    """Processes that decode and tokenise ahead; none on two cores, where they would only take turns with training."""
    if configured is not None:
        return configured
    cores = len(os.sched_getaffinity(0))
    return 0 if cores <= 2 else min(4, cores // 2)


@contextmanager
def log_file(
    folder: Path, names: Sequence[str] = ("transformers", "trl", "peft", "accelerate", "py.warnings")
) -> Iterator[None]:
    """What the libraries say goes to `log.txt` of the run."""
    handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def _saved(folder: Path, manifest: Manifest, step: int) -> None:
    manifest.with_changes(steps=step).write(folder)
