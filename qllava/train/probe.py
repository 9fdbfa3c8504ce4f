"""Before the first step on a card: how much really fits, measured on the worst pack the data can make.

The planner's estimate starts the search in `room.py`; what is measured here decides.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from qllava.data.collator import collate_pack
from qllava.data.steps import StepBuilder
from qllava.data.trees import Tree
from qllava.model.attention import AttentionKernel
from qllava.plan.device import GIB
from qllava.plan.memory import LARGEST_BUDGET, MARGIN_GIB
from qllava.train.card import torch_bytes
from qllava.train.recovery import is_out_of_memory
from qllava.train.room import Found, Room, search_room
from qllava.train.trainer import StageTrainer

# Steps whose packs are looked at, spread over the run; tokenising one takes about 0.1 s.
LOOK_AT_STEPS = 8


class Meter(Protocol):
    """A device's memory counter."""

    def reset(self) -> None:
        """Forget the peak, and what is cached."""

    def peak(self) -> int:
        """Most bytes held since `reset`."""


class CardMeter:
    """What torch has reserved of the visible card: what it has taken from others, gaps included."""

    def reset(self) -> None:
        """Return cached memory to the driver and start counting."""
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """Most bytes reserved since."""
        return int(torch.cuda.max_memory_reserved())


@dataclass(frozen=True)
class PackShape:
    """What a token of the densest packs brings: `supervised` 0-1, `images` pictures."""

    supervised: float
    images: float


def probe_room(
    trainer: StageTrainer, builder: StepBuilder, *, start: Room, longest: int, limit: int, meter: Meter
) -> Found | None:
    """The room that fits `limit` bytes, measured by running the worst pack twice; None where none does.

    Args:
        trainer: constructed, not yet training; it is left as it was, but for its room.
        builder: of the steps that will be trained.
        start: the planner's estimate.
        longest: tokens of the longest sample that may come.
        limit: bytes that the worst pack's peak may reach.
        meter: of the device.
    """
    shape = pack_shape(builder, start.token_budget)

    def measure(tokens: int, checkpoint_every: int | None) -> int | None:
        trainer.set_room(Room(start.token_budget, checkpoint_every))
        pack = _worst_pack_of(builder, shape, tokens)
        meter.reset()
        try:
            trainer.rehearse(pack)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None
        return meter.peak()

    return search_room(measure, start=start, limit=limit, shortest=longest, largest=max(longest, LARGEST_BUDGET))


def pack_seconds(trainer: StageTrainer, builder: StepBuilder, kernel: AttentionKernel, tokens: int) -> float | None:
    """Seconds of a forward and backward pass of the worst pack with an attention kernel; None where it fails.

    The trainer is left with that kernel; the first pass, which compiles, does not count.
    """
    pack = _worst_pack_of(builder, pack_shape(builder, tokens), tokens)
    trainer.set_attention(kernel)
    try:
        trainer.rehearse(pack)
        torch.cuda.synchronize()
        started = time.perf_counter()
        trainer.rehearse(pack)
        torch.cuda.synchronize()
    except Exception:  # whatever a compiler raises where it lacks Triton, a C compiler or shared memory
        logging.getLogger("qllava.train").warning("attention kernel %s failed", kernel, exc_info=True)
        return None
    return (time.perf_counter() - started) / 2


def card_limit(*, learnt: int, state_bytes: float, vram_gib: float | None) -> int:
    """Bytes that a pack's peak may reach on the visible card: what is free or ours, less margin and optimizer states.

    Args:
        learnt: trained parameters.
        state_bytes: of the optimizer, for each of them; they are allocated by the first step only.
        vram_gib: the cap of `--vram`.
    """
    free, _ = torch.cuda.mem_get_info()
    usable = free + torch.cuda.memory_reserved() - int(MARGIN_GIB * GIB)
    if vram_gib is not None:
        usable = min(usable, torch_bytes(vram_gib))
    return int(usable - learnt * state_bytes)


def pack_shape(builder: StepBuilder, token_budget: int | None) -> PackShape:
    """The most supervised tokens and the most pictures that a token brings, over packs of steps spread over the run.

    Packs that are less than half full are as dense as their few samples happen to be, so they count only where there
    are no others.
    """
    steps = np.linspace(0, len(builder.plan) - 1, num=min(LOOK_AT_STEPS, len(builder.plan)), dtype=np.int64)
    packs = [pack for step in dict.fromkeys(steps.tolist()) for pack in builder.pack(step, token_budget)[0]]
    full = [pack for pack in packs if token_budget is not None and len(pack) * 2 >= token_budget]
    return densest(full or packs)


def densest(packs: Sequence[Tree]) -> PackShape:
    """The most supervised tokens and pictures a token, each over all packs; a text that is all supervised for none."""
    if not packs:
        return PackShape(1.0, 0.0)
    return PackShape(
        supervised=max(min(1.0, len(pack.target) / len(pack)) for pack in packs),
        images=max(len(pack.images) / len(pack) for pack in packs),
    )


def _worst_pack_of(builder: StepBuilder, shape: PackShape, tokens: int) -> dict[str, torch.Tensor]:
    encoder = builder.encoder
    return worst_pack(
        shape,
        tokens,
        image_token_id=encoder.image_token_id,
        image_tokens=encoder.tokens_per_image,
        size=builder.image_size,
    )


def worst_pack(
    shape: PackShape, tokens: int, *, image_token_id: int, image_tokens: int, size: tuple[int, int]
) -> dict[str, torch.Tensor]:
    """A pack of exactly `tokens` tokens with as much of everything as the densest packs, as the collator makes them.

    Args:
        shape: see `pack_shape`.
        tokens: T.
        image_token_id, image_tokens: of a picture.
        size: (H, W) of a picture.
    """
    images = min(math.ceil(shape.images * tokens), tokens // image_tokens)
    segments = max(2, images)  # never one: that would need no mask
    bounds = np.linspace(0, tokens, num=segments + 1, dtype=np.int64)
    segment = np.repeat(np.arange(segments), np.diff(bounds))
    position_ids = np.arange(tokens) - bounds[segment]
    input_ids = np.zeros(tokens, dtype=np.int64)
    # Evenly spaced pictures may not fit a segment's length exactly, so they are laid from the front instead.
    input_ids[: images * image_tokens] = image_token_id
    supervised = math.ceil(shape.supervised * tokens)
    tree = Tree(
        input_ids=input_ids,
        position_ids=position_ids,
        segment=segment,
        parent=np.arange(segments),
        source=np.arange(tokens - supervised, tokens),
        target=np.zeros(supervised, dtype=np.int64),
        images=("",) * images,
        samples=segments,
    )
    return collate_pack(tree, np.zeros((images, 3, *size), dtype=np.uint8) if images else None)
