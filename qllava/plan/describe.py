"""A plan in words: one line a setting, each with its reason and the flag that changes it."""

from __future__ import annotations

from typing import NamedTuple

from qllava.plan.plan import Plan


class Line(NamedTuple):
    """`name value (why; flag)`; why and flag may be empty."""

    name: str
    value: str
    why: str = ""
    flag: str = ""


def describe(plan: Plan, why_recipe: str = "") -> list[Line]:
    """All lines of `train --dry-run`, in reading order."""
    return [
        Line("device", plan.device, plan.device_note or "", "" if plan.hypothetical else "--vram"),
        Line("recipe", plan.recipe.name, why_recipe, "--recipe"),
        Line("models", f"{plan.recipe.model.language_model} + {plan.recipe.model.vision_tower}"),
        _download(plan),
        *_work(plan),
        *_optimisation(plan),
        *_memory(plan),
        _duration(plan),
        *(Line("advice" if plan.fits else "to make it fit", text) for text in plan.advice),
    ]


def policy_text(checkpoint_every: int | None) -> str:
    """A checkpointing policy in words."""
    if checkpoint_every is None:
        return "off"
    ordinal = {2: "2nd", 3: "3rd"}.get(checkpoint_every, f"{checkpoint_every}th")
    return "every layer" if checkpoint_every == 1 else f"every {ordinal} layer"


def hours_text(hours: float) -> str:
    """`3.5 h`, or minutes below one hour."""
    return f"{hours:.1f} h" if hours >= 1 else f"{max(1, round(hours * 60))} min"


def _download(plan: Plan) -> Line:
    free = f"{plan.disk_free_gb:.0f} GB free on disk"
    if plan.download_gb is None:
        return Line("download", "size unknown", free)
    if plan.download_gb == 0:
        return Line("download", "nothing")
    short = " - not enough" if plan.download_gb > plan.disk_free_gb else ""
    return Line("download", f"{plan.download_gb:.1f} GB", free + short)


def _work(plan: Plan) -> list[Line]:
    settings = plan.settings
    lines = [Line("samples", "unknown until there is data" if plan.samples is None else f"{plan.samples:,}")]
    lines.append(Line("batch", str(settings.batch_size), "samples of one optimizer step", "--batch-size"))
    if plan.steps is not None:
        why = f"{settings.epochs:g} epochs" if settings.epochs != 1 else "one epoch"
        if settings.max_steps is not None and plan.share is None:
            why = "at most"
        elif plan.share is not None and plan.share < min(1.0, settings.epochs):
            why = f"a cap: {plan.share:.0%} of the data"
        lines.append(Line("steps", f"{plan.steps:,}", why, "--max-steps"))
    return lines


def _optimisation(plan: Plan) -> list[Line]:
    settings = plan.settings
    lines = [Line("learning rate", f"{settings.learning_rate:g}", settings.scheduler, "--lr")]
    if plan.stage == "finetune":
        projector = settings.projector_learning_rate or settings.learning_rate
        lora = plan.recipe.lora
        lines.append(Line("projector learning rate", f"{projector:g}", "", "--projector-lr"))
        lines.append(Line("LoRA rank", str(lora.rank), "", "--lora-r"))
        why = "2 x rank" if lora.alpha is None else ""
        lines.append(Line("LoRA alpha", str(lora.scaling_alpha), why, "--lora-alpha"))
    return lines


def _memory(plan: Plan) -> list[Line]:
    if plan.total_gib is None:
        return [
            Line("checkpointing", policy_text(plan.checkpoint_every)),
            Line("tokens a pack", str(plan.token_budget)),
        ]
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    return [
        Line("checkpointing", policy_text(plan.checkpoint_every), _policy_reason(plan)),
        Line("tokens a pack", str(plan.token_budget), f"one picture is {plan.image_tokens}"),
        Line("optimizer", plan.optimizer, _optimizer_reason(plan)),
        *(Line("memory:", f"{gib:.2f} GiB {name}") for name, gib in plan.components_gib.items()),
        Line("memory:", f"{plan.total_gib:.2f} GiB of {plan.free_gib:.1f} free", verdict),
    ]


def _optimizer_reason(plan: Plan) -> str:
    return "fp32 states" if plan.optimizer == "adamw" else "LoRA's states in 8 bit; fp32 ones do not fit"


def _policy_reason(plan: Plan) -> str:
    if not plan.fits:
        return "the least memory"
    if plan.checkpoint_every is None:
        return "all activations fit"
    return "1.4x slower than none, but it fits" if plan.checkpoint_every == 1 else "the least that fits"


def _duration(plan: Plan) -> Line:
    if plan.tflop_a_sample is None:
        return Line("duration", "unknown", "the models' sizes are")
    cost = f"{plan.tflop_a_sample:.3g} TFLOP a sample"
    if plan.rate is None:
        return Line("duration", "unknown", f"{cost}; the rate of {plan.device} is not in the table")
    why = f"{cost}, {plan.rate.source}"
    if plan.hours is not None:
        return Line("duration", f"about {hours_text(plan.hours)}", why)
    each = plan.tflop_a_sample / plan.rate.tflops / 3600 * 10_000
    return Line("duration", f"about {hours_text(each)} per 10,000 samples", why)
