"""The room of a run: remembered, or measured before the first step, and made smaller where a step does not fit."""

from __future__ import annotations

import logging
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qllava.data.steps import StepBuilder
from qllava.errors import DeviceError
from qllava.model.attention import AttentionKernel
from qllava.plan.describe import policy_text
from qllava.plan.device import GIB
from qllava.plan.plan import Plan
from qllava.recipe import Recipe
from qllava.train.callbacks import TrainView
from qllava.train.card import other_holders
from qllava.train.kernels import AttentionSetting, faster_attention, fixed_attention
from qllava.train.optimizer import STATE_BYTES, Optimizer
from qllava.train.probe import CardMeter, card_limit, pack_seconds, probe_room
from qllava.train.room import Room, SavedRoom, save_room, saved_room, smaller_room
from qllava.train.spill import SpillDetector, under_wsl
from qllava.train.trainer import StageTrainer

LOGGER = "qllava.train"


def planned_room(plan: Plan, recipe: Recipe) -> Room:
    """What the planner expects to fit; packs hold any sample that `max_length` allows."""
    budget = max(plan.token_budget, recipe.data.max_length) if recipe.data.pack else None
    return Room(budget, plan.checkpoint_every)


class Fitting:
    """Keeps the room of one run: in its `memory.json`, its log and its view.

    Args:
        folder: of the run.
        view: where changes are said.
        device: the card's or processor's name.
        vram_gib: the cap of `--vram`.
        attention: the kernel asked for, or `auto`.
    """

    def __init__(
        self, folder: Path, view: TrainView, *, device: str, vram_gib: float | None, attention: AttentionSetting
    ) -> None:
        self._folder = folder
        self._view = view
        self._device = device
        self._vram_gib = vram_gib
        self._setting: AttentionSetting = attention
        self._attention: AttentionKernel = "sdpa"
        self._peak: int | None = None
        self._log = logging.getLogger(LOGGER)

    def begin(
        self, trainer: StageTrainer, builder: StepBuilder, *, start: Room, longest: int, optimizer: Optimizer
    ) -> None:
        """Give the trainer the room to start with: that of an earlier part of the run, a measured one, or the plan's.

        Raises:
            DeviceError: the longest sample does not fit the card.
        """
        saved = saved_room(self._folder, device=self._device, vram_gib=self._vram_gib)
        limit = self._limit(trainer, optimizer)
        if saved is not None and (limit is None or saved.peak is None or saved.peak <= limit):
            self._note(saved.room, "as before")
            trainer.set_room(saved.room)
            self._attention = saved.attention
            trainer.set_attention(saved.attention)
            return
        room = start if limit is None else self._measured(trainer, builder, start, longest, limit)
        trainer.set_room(room)
        self._choose_attention(trainer, builder, room)
        if limit is not None:
            self._save(room)

    def _measured(self, trainer: StageTrainer, builder: StepBuilder, start: Room, longest: int, limit: int) -> Room:
        self._view.status("measuring what fits")
        for holder in other_holders()[:3]:
            self._view.note("also on the card", holder)
        found = probe_room(trainer, builder, start=start, longest=longest, limit=limit, meter=CardMeter())
        if found is None:
            raise DeviceError(
                f"{self._device}: a sample of {longest} tokens does not fit {limit / GIB:.1f} GiB, with every layer "
                f"recomputed; use --set data.max_length={max(1, longest // 2)}, a smaller --recipe, or close other "
                f"programs{self._holders()}"
            )
        self._peak = found.peak
        self._note(found.room, f"measured: {found.peak / GIB:.1f} of {limit / GIB:.1f} GiB")
        return found.room

    def _choose_attention(self, trainer: StageTrainer, builder: StepBuilder, room: Room) -> None:
        budget = room.token_budget
        kernel = fixed_attention(self._setting, device=trainer.args.device.type, token_budget=budget)
        if kernel is None and budget is not None:
            self._view.status("measuring attention kernels")
            kernel, why = faster_attention(lambda kernel: pack_seconds(trainer, builder, kernel, budget))
            self._view.note("attention", kernel, why, "--set train.attention=sdpa")
        self._attention = kernel or "sdpa"
        trainer.set_attention(self._attention)

    def shrunk(self, room: Room) -> None:
        """A step ran out of memory and is done again in `room`."""
        tokens, policy = room.token_budget or "all", policy_text(room.checkpoint_every)
        self._log.warning(
            "out of memory; the step is done again with %s tokens a pack, checkpointing %s", tokens, policy
        )
        self._note(room, "a step ran out of memory and is done again")
        self._peak = None
        self._save(room)

    def spilled(self, trainer: StageTrainer, slower: float) -> None:
        """Steps have become `slower` times slower; on WSL, where that is how a full card shows, make room."""
        self._log.warning("the last steps took %.1f times as long a token as usual", slower)
        why = "another program may be using it (nvidia-smi)"
        smaller = None
        if under_wsl():
            why = "Windows moves the card's memory to the system's: close other programs, or use --vram"
            room = trainer.room
            smaller = smaller_room(room, tokens=room.token_budget or 0, samples=2)
        self._view.note("slow steps", f"{slower:.1f} times as long as usual", why)
        if smaller is not None:
            trainer.set_room(smaller)
            self._note(smaller, "to leave more of the card free")
            self._peak = None
            self._save(smaller)

    def _limit(self, trainer: StageTrainer, optimizer: Optimizer) -> int | None:
        if trainer.args.device.type != "cuda":
            return None
        return card_limit(
            learnt=trainer.trainable_parameters, state_bytes=STATE_BYTES[optimizer], vram_gib=self._vram_gib
        )

    def _note(self, room: Room, why: str) -> None:
        tokens = "one sample" if room.token_budget is None else f"{room.token_budget} tokens"
        self._view.note("a pack", f"{tokens}, checkpointing {policy_text(room.checkpoint_every)}", why, "--vram")

    def _save(self, room: Room) -> None:
        save_room(self._folder, SavedRoom(room, self._device, self._vram_gib, self._peak, self._attention))

    def _holders(self) -> str:
        holders = other_holders()
        return f" ({', '.join(str(holder) for holder in holders[:3])})" if holders else ""


class SpillWatch(TrainerCallback):
    """Feeds each step's compute time to a detector, and tells `fitting` what it finds."""

    def __init__(self, fitting: Fitting) -> None:
        self._fitting = fitting
        self._detector = SpillDetector()
        self.trainer: StageTrainer | None = None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """After each step."""
        del args, state, control, kwargs
        if self.trainer is None or not logs or "step_seconds" not in logs or "loss" not in logs:
            return
        slower = self._detector.observe(seconds=logs["step_seconds"], tokens=int(logs["tokens"]))
        if slower is not None:
            self._fitting.spilled(self.trainer, slower)
