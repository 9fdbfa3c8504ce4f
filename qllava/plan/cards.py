"""The same stage on cards people have: what fits there and how long it takes."""

from __future__ import annotations

from dataclasses import dataclass

from qllava.errors import UsageError
from qllava.plan.device import GIB, VISIBLE, DeviceProbe, choose_card, nvidia_cards, processor
from qllava.plan.memory import fit
from qllava.plan.time import CARD_GB, DATA_SHEET, Rate, card_rate, known_card
from qllava.plan.time import hours as hours_for
from qllava.plan.work import Job, sample_tflop

# Shown with every plan.
NAMED = ("RTX 3060", "RTX 3090", "RTX 4090", "RTX 5090", "A100", "H100")
# What the driver keeps of the memory a card is sold with.
_DRIVER = 0.015


@dataclass(frozen=True)
class CardPlan:
    """A stage on one card. `samples` is what `hours` are for: the run's, or 10,000 where they are not known.

    `checkpoint_every` and `hours` are None where it does not fit; the first also for no checkpointing.
    """

    card: str
    memory_gib: float
    fits: bool
    checkpoint_every: int | None
    samples: int
    hours: float | None
    rate: Rate


def plan_cards(job: Job, samples: int | None) -> list[CardPlan]:
    """The job on each of `NAMED`, with the policy of its memory and the rate of its data sheet."""
    seen = 10_000 if samples is None else samples
    plans = []
    for card in NAMED:
        memory, rate = _usable_gib(CARD_GB[card]), card_rate(card)
        chosen = fit(job, memory, cuda=True)
        hours = hours_for(seen, sample_tflop(job, chosen.checkpoint_every), rate) if chosen.fits else None
        every = chosen.checkpoint_every if chosen.fits else None
        plans.append(CardPlan(card, memory, chosen.fits, every, seen, hours, rate))
    return plans


def named_card(name: str) -> DeviceProbe:
    """A card of the table, all of it free, as if it were here.

    Raises:
        UsageError: no such card; names those there are.
    """
    card = known_card(name) or known_card(f"RTX {name}")
    if card is None:
        raise UsageError(
            f"--card {name!r} is not in the table; use --vram GB with --tflops N, or one of {', '.join(DATA_SHEET)}"
        )
    size = int(_usable_gib(CARD_GB[card]) * GIB)
    return DeviceProbe("cuda", card, size, size, None, 1)


def sized_card(vram_gib: float) -> DeviceProbe:
    """A card of which only the size is known; `auto` chooses its recipe by it."""
    size = int(vram_gib * GIB)
    return DeviceProbe("cuda", f"a card with {vram_gib:g} GB", size, size, None, 1)


def listed_device(environ: dict[str, str]) -> DeviceProbe:
    """This machine's card as nvidia-smi lists it, or its processor; nothing is tried out, so torch is not needed."""
    cards = nvidia_cards()
    if not cards or environ.get(VISIBLE, "unset").strip() in {"", "-1"}:
        return processor()
    card, note = choose_card(cards, dict(environ), cuda_started=False)
    if card is None:
        return processor()
    return DeviceProbe("cuda", card.name, card.total_bytes, card.free_bytes, card.capability, len(cards), note=note)


def _usable_gib(sold_gb: float) -> float:
    return sold_gb * (1 - _DRIVER)
