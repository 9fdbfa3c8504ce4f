"""The samples of a run: opened, checked, and dealt out to its steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qllava.data.audit import Audit, select
from qllava.data.check import held_out_images
from qllava.data.check_cache import cached_check, read_findings
from qllava.data.encode import ChatEncoder
from qllava.data.findings import Findings, counted
from qllava.data.steps import Conversations, StepPlan, plan_steps
from qllava.errors import DataError
from qllava.model.embedded import cache_dir
from qllava.train.callbacks import TrainView
from qllava.train.request import TrainRequest

# Of a run folder: what its data set's check found. A continued run goes by this file, not by a new look, so that the
# steps stay the same whatever happened to the pictures meanwhile.
CHECK_FILE = "data_check.json"
HELD_OUT = "heldout.jsonl"
# Left-out samples that are named on the screen; the run folder has them all.
_NAMED = 5


@dataclass(frozen=True)
class Samples:
    """The data of a run, checked."""

    conversations: Conversations
    steps: StepPlan
    audit: Audit
    findings: Findings


def open_samples(request: TrainRequest, folder: Path, encoder: ChatEncoder, view: TrainView) -> Samples:
    """Check the data, leave out what cannot be trained on, and decide what every step holds.

    Raises:
        DataError: more of it is bad than `request.max_bad`, or nothing is left.
    """
    recipe, stage = request.recipe, request.recipe.stage(request.stage)
    needs_image = request.stage == "align"
    findings = known = read_findings(folder / CHECK_FILE)
    if findings is None:
        findings = _check(request, encoder, view, needs_image=needs_image)
        findings.require(request.max_bad, request.data.path)
    audit = select(request.conversations, findings, needs_image=needs_image)
    _tell(findings, audit, view, folder)
    steps = plan_steps(
        audit.groups,
        batch_size=stage.batch_size,
        epochs=stage.epochs,
        seed=recipe.seed,
        max_steps=stage.max_steps,
    )
    if request.show is not None and known is None:
        request.show(encoder, [audit.usable[index] for index in steps.members(0)[:3]])
    return Samples(audit.usable, steps, audit, findings)


def _check(request: TrainRequest, encoder: ChatEncoder, view: TrainView, *, needs_image: bool) -> Findings:
    path = Path(request.data.path)
    return cached_check(
        request.conversations,
        encoder,
        digest=request.data.digest,
        cache=cache_dir() / "checks" if path.is_file() else None,  # a hub id says nothing about its content
        image_root=request.data.image_root,
        max_length=request.recipe.data.max_length,
        needs_image=needs_image,
        held_out=_held_out(path.parent / HELD_OUT, view),
        thorough=False,
        progress=lambda what, done, total: view.status(f"checking the data: {done:,} of {total:,} {what}"),
    )


def _held_out(path: Path, view: TrainView) -> list[str]:
    """Pictures that must not be trained on; a damaged file ends no training, which does not need it."""
    try:
        return held_out_images(path)
    except DataError as error:
        view.note("held-out pictures", "not compared", str(error))
        return []


def _tell(findings: Findings, audit: Audit, view: TrainView, folder: Path) -> None:
    """One line a fact: what was looked at, what is left out and why, what deserves a second look."""
    looked = f"{findings.tokenized:,} tokenized, {findings.decoded:,} of {findings.pictures:,} pictures decoded"
    view.note("data checked", f"{findings.rows:,} samples", looked)
    if audit.text_only:
        view.note("text-only rows", audit.text_only, "left out: stage 1 is about pictures")
    if audit.rejected:
        why = f"{counted(findings.reasons)}; all are listed in {folder / CHECK_FILE}"
        view.note("left out", f"{len(audit.rejected):,} of {findings.rows:,} samples", why)
    for sample, reason in audit.rejected[:_NAMED]:
        view.note("  ", sample, reason)
    of = "" if findings.tokenized == findings.rows else f"in the {findings.tokenized:,} samples tokenized"
    facts = {
        "turns cut": ("cut_turns", "the last ones, to fit data.max_length"),
        "half turns": ("half_turns", "without their other half; left out"),
        "control tokens": ("control_text", "in texts; made harmless"),
        "stray <image>": ("extra_placeholder", "more than images; it is text"),
        "held-out pictures": ("held_out", "samples about them: what is measured on them will be too good"),
    }
    for name, (kind, why) in facts.items():
        if count := findings.doubts.get(kind):
            where = of if kind in ("cut_turns", "control_text") else ""
            view.note(name, f"{count:,}", "; ".join(part for part in (why, where) if part))
