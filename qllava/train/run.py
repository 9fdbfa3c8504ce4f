"""A training run as a table of contents: claim, open, plan, build, start, train, look, save."""

from __future__ import annotations

from dataclasses import dataclass

from qllava.checkpoint.load import build_encoder, verify_files
from qllava.checkpoint.manifest import Run, read_run
from qllava.data.chat_template import stage_template
from qllava.data.images import build_image_processor
from qllava.evaluate.sees import Sight
from qllava.model.embedded import resolve_model
from qllava.plan.plan import make_plan
from qllava.train.callbacks import TrainView
from qllava.train.claim import Claim, claimed
from qllava.train.folder import finish_run, log_file, open_run
from qllava.train.look import look
from qllava.train.parts import build_parts
from qllava.train.request import TrainRequest, check_source
from qllava.train.samples import open_samples
from qllava.train.saving import put_in_order, writing_results
from qllava.train.steps import run_steps
from qllava.train.warm_start import start_projector


@dataclass(frozen=True)
class Outcome:
    """A finished run; `rejected` maps the ids of samples that were left out to the reason."""

    run: Run
    sight: Sight | None
    rejected: dict[str, str]


def train(request: TrainRequest, view: TrainView) -> Outcome:
    """Train one stage, or continue it, and leave a finished run folder, which no other process touches meanwhile.

    Raises:
        InterruptedRunError: a signal came; the run is saved and can be continued with the same command.
        QllavaError: data, model, device or run folder cannot be used.
    """
    with claimed(request) as claim:
        return _train(request, claim, view)


def _train(request: TrainRequest, claim: Claim, view: TrainView) -> Outcome:
    recipe, folder, unfinished = request.recipe, claim.folder, claim.unfinished
    if request.source is not None:
        check_source(recipe, request.source)
        verify_files(request.source)
    encoder = build_encoder(recipe, template=stage_template(recipe.template, recipe.align_template, request.stage))
    samples = open_samples(request, folder, encoder, view)
    plan = make_plan(recipe, request.stage, request.probe, len(samples.conversations), request.vram_gib)
    image_processor = build_image_processor(resolve_model(recipe.model.vision_tower), recipe.data.image_aspect)
    manifest = open_run(request, folder, unfinished, samples, encoder, image_processor)
    view.note("run", folder, "continued" if unfinished else "new", "--new")
    if unfinished and claim.left_by:
        view.note("it was left by", claim.left_by, "which ended without saving")
    put_in_order(folder, view)
    with log_file(folder):
        view.status("loading the model")
        parts = build_parts(request, encoder, image_processor)
        start_projector(request, folder, samples, parts, view)
        trainer = run_steps(request, folder, manifest, plan, samples, parts, view)
        view.status("checking whether the picture matters")
        sight = look(request, samples, parts, view)
        rejected = dict(samples.audit.rejected) | trainer.rejected
        with writing_results(folder, request.command):
            finish_run(request, folder, manifest, parts, sight, rejected)
    return Outcome(read_run(folder), sight, rejected)
