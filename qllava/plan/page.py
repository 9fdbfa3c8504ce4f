"""A plan as a page of 80 columns, and as JSON."""

from __future__ import annotations

import textwrap
from typing import Any

from qllava.plan.cards import CardPlan
from qllava.plan.describe import hours_text, policy_text
from qllava.plan.plan import Plan
from qllava.types import STAGE_NAMES

WIDTH = 80
_SMALL_GIB = 0.005


def plan_page(plan: Plan) -> str:
    """What one stage takes and how long, for people."""
    number = next(n for n, name in STAGE_NAMES.items() if name == plan.stage)
    title = f"{plan.recipe.name}, stage {number} ({plan.stage}) on {plan.device}"
    parts = [*_wrapped(title), ""]
    if plan.total_gib is None:
        return "\n".join([*parts, *(line for text in plan.advice for line in _wrapped(text))])
    parts += [f"{gib:9.2f} GiB  {name}" for name, gib in plan.components_gib.items() if gib >= _SMALL_GIB]
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    parts += [f"{plan.total_gib:9.2f} GiB  in all, of {plan.free_gib:.1f} free: {verdict}", ""]
    for name, value in _settings(plan):
        parts += _wrapped(f"{name:<14} {value}", indent=15)
    parts += ["", *_cards(plan.cards)]
    if plan.advice:
        heading = "to know:" if plan.fits else "to make it fit, cheapest first (one of these is enough):"
        parts += ["", heading]
        parts += [line for text in plan.advice for line in _wrapped(f"  {text}", indent=4)]
    return "\n".join(parts)


def plan_json(plan: Plan) -> dict[str, Any]:
    """The same for programs; GiB are 2**30 bytes, TFLOP 1e12."""
    rate = plan.rate
    return {
        "recipe": plan.recipe.name,
        "stage": plan.stage,
        "device": plan.device,
        "free_gib": plan.free_gib,
        "fits": plan.fits,
        "known": plan.known,
        "checkpoint_every": plan.checkpoint_every,
        "token_budget": plan.token_budget,
        "optimizer": plan.optimizer,
        "components_gib": plan.components_gib,
        "total_gib": plan.total_gib,
        "peak_gib": plan.peak_gib,
        "image_tokens": plan.image_tokens,
        "tokens_a_sample": plan.tokens_a_sample,
        "packed_tokens_a_sample": plan.packed_tokens,
        "lengths_from": plan.lengths_from,
        "samples": plan.samples,
        "steps": plan.steps,
        "tflop_a_sample": plan.tflop_a_sample,
        "rate": None if rate is None else {"tflops": rate.tflops, "source": rate.source},
        "hours": plan.hours,
        "download_gb": plan.download_gb,
        "advice": plan.advice,
        "cards": [
            {
                "card": card.card,
                "memory_gib": card.memory_gib,
                "fits": card.fits,
                "checkpoint_every": card.checkpoint_every,
                "samples": card.samples,
                "hours": card.hours,
                "rate": {"tflops": card.rate.tflops, "source": card.rate.source},
            }
            for card in plan.cards
        ],
    }


def _settings(plan: Plan) -> list[tuple[str, str]]:
    samples = "unknown until there is data" if plan.samples is None else f"{plan.samples:,}"
    if plan.steps is not None:
        samples += f", {plan.steps:,} steps of {plan.settings.batch_size}"
    lines = [
        ("checkpointing", policy_text(plan.checkpoint_every)),
        ("tokens a pack", f"{plan.token_budget:,}; one picture is {plan.image_tokens}"),
        ("optimizer", plan.optimizer),
        ("samples", samples),
    ]
    if plan.tokens_a_sample is not None and plan.packed_tokens is not None:
        length = f"{plan.tokens_a_sample:,.0f} tokens a sample"
        if round(plan.packed_tokens) != round(plan.tokens_a_sample):
            length += f", {plan.packed_tokens:,.0f} where pictures are shared"
        lines.append(("lengths", f"{length} ({plan.lengths_from})"))
    if plan.tflop_a_sample is not None:
        lines.append(("work", f"{plan.tflop_a_sample:.3g} TFLOP a sample"))
    if plan.rate is None:
        lines.append(("hours", f"the rate of {plan.device} is not in the table; say --tflops N"))
    elif plan.hours is not None:
        lines.append(("hours", f"{hours_text(plan.hours)} ({plan.rate.source})"))
    else:
        lines.append(("rate", f"{plan.rate.tflops:.3g} TFLOP/s ({plan.rate.source})"))
    return lines


def _cards(cards: list[CardPlan]) -> list[str]:
    if not cards:
        return []
    head = f"{cards[0].samples:,} samples on other cards, at half of the data sheet's rate (not measured):"
    lines = [*_wrapped(head)]
    for card in cards:
        memory = f"{card.memory_gib:.0f} GiB"
        if card.hours is None:
            lines.append(f"  {card.card:<10} {memory:>8}  does not fit")
        else:
            policy = policy_text(card.checkpoint_every)
            lines.append(f"  {card.card:<10} {memory:>8}  {hours_text(card.hours):>8}  checkpointing {policy}")
    return lines


def _wrapped(text: str, indent: int = 0) -> list[str]:
    # Not through words with hyphens: `--set data.max_length=1024` must survive to be copied.
    return textwrap.wrap(
        text,
        WIDTH,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        break_long_words=False,
        drop_whitespace=True,
    ) or [""]
