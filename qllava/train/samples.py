"""The samples of a run: opened, checked, and dealt out to its steps."""

from __future__ import annotations

from dataclasses import dataclass

from qllava.data.audit import Audit, audit
from qllava.data.encode import ChatEncoder
from qllava.data.steps import Conversations, StepPlan, plan_steps
from qllava.train.callbacks import TrainView
from qllava.train.request import TrainRequest


@dataclass(frozen=True)
class Samples:
    """The data of a run, checked."""

    conversations: Conversations
    steps: StepPlan
    audit: Audit


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
