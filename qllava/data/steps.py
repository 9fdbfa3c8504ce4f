"""The data set the trainer sees: one row is one optimizer step.

How many packs a global batch fills varies, while Trainer fixes the micro-batches of a step; so a row yields all packs
of its step. Which samples belong to a step depends on data and seed only, never on the token budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from PIL import Image
from transformers import BaseImageProcessor

from qllava.data.encode import ChatEncoder, Encoded, SampleRejected
from qllava.data.images import read_pixels, to_pixels
from qllava.data.packing import pack_samples
from qllava.data.trees import Tree
from qllava.types import Conversation


class Conversations(Protocol):
    """Anything that hands out conversations by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Conversation: ...


@dataclass(frozen=True)
class StepPlan:
    """Membership of every optimizer step.

    Attributes:
        order: (samples of all epochs,) indices into the data, step after step.
        batch_size: samples a step; the last of each epoch may be smaller.
        bounds: (steps + 1,) where each step starts in `order`.
    """

    order: NDArray[np.int64]
    bounds: NDArray[np.int64]

    def __len__(self) -> int:
        """Optimizer steps."""
        return len(self.bounds) - 1

    def members(self, step: int) -> list[int]:
        """Indices of the samples of one step."""
        return [int(i) for i in self.order[self.bounds[step] : self.bounds[step + 1]]]


def plan_steps(
    groups: Sequence[object], *, batch_size: int, epochs: float, seed: int, max_steps: int | None = None
) -> StepPlan:
    """Shuffle groups (samples of one picture stay neighbours) anew each epoch and cut windows of one global batch.

    Args:
        groups: group key of each sample, hashable; equal keys share a picture.
        batch_size: samples of a step; a group may straddle two steps, so that every step but an epoch's last is full.
        epochs: passes over the data; a fraction stops in the middle of the last.
        max_steps: stop there.
    """
    numbers: dict[object, int] = {}
    group = np.fromiter((numbers.setdefault(key, len(numbers)) for key in groups), dtype=np.int64, count=len(groups))
    order: list[NDArray[np.int64]] = []
    bounds = [0]
    remaining = round(epochs * len(groups))
    epoch = 0
    while remaining > 0 and (max_steps is None or len(bounds) <= max_steps):
        place = np.empty(len(numbers), dtype=np.int64)
        place[np.random.default_rng((seed, epoch)).permutation(len(numbers))] = np.arange(len(numbers))
        indices = np.argsort(place[group], kind="stable")[:remaining]
        order.append(indices)
        start = bounds[-1]
        bounds += [start + min((i + 1) * batch_size, len(indices)) for i in range(math.ceil(len(indices) / batch_size))]
        remaining -= len(indices)
        epoch += 1
    if max_steps is not None:
        bounds = bounds[: max_steps + 1]
    everything = np.concatenate(order) if order else np.zeros(0, dtype=np.int64)
    return StepPlan(order=everything[: bounds[-1]], bounds=np.asarray(bounds, dtype=np.int64))


class TokenBudget:
    """The most tokens of one pack, or none for unpacked sequences; data workers see it change.

    It lives in shared memory: after a step that did not fit, the steps that the workers build next are smaller.
    """

    def __init__(self, tokens: int | None) -> None:
        self._shared = torch.zeros(1, dtype=torch.int64).share_memory_()
        self.set(tokens)

    @property
    def tokens(self) -> int | None:
        """The budget in force."""
        return int(self._shared) or None

    def set(self, tokens: int | None) -> None:
        """Change it for every process."""
        self._shared.fill_(tokens or 0)


@dataclass(frozen=True)
class StepBuilder:
    """From step numbers to packs; runs inside data workers, so it holds plain picklable parts only."""

    conversations: Conversations
    plan: StepPlan
    encoder: ChatEncoder
    image_root: Path
    image_processor: BaseImageProcessor
    max_length: int
    budget: TokenBudget

    def __call__(self, rows: dict[str, list[int]]) -> dict[str, list[Any]]:
        """The transform of `Dataset.with_transform`: `{"step": [...]}` -> one column for each key of `build`."""
        built = [self.build(step) for step in rows["step"]]
        return {key: [row[key] for row in built] for key in built[0]}

    def build(self, step: int) -> dict[str, Any]:
        """One step as the collator takes it.

        A picture that cannot be read takes its samples with it, nothing stands in for it; no pack may be left.

        Returns:
            `step`; `token_budget` it was packed to (0: not packed); `packs`, each `{"tree", "pixels"}` with its decoded
            pictures, (I, 3, H, W) uint8 or None; `rejected`: (id, reason) of samples that cannot be used.
        """
        token_budget = self.budget.tokens
        samples, rejected = self._encode(step)
        pixels, unreadable = read_pixels(
            self.image_processor, self.image_root, (name for _, sample in samples for name in sample.images)
        )
        readable: list[Encoded] = []
        for identity, sample in samples:
            reason = next((unreadable[name] for name in sample.images if name in unreadable), None)
            if reason is None:
                readable.append(sample)
            else:
                rejected.append((identity, reason))
        packs = pack_samples(readable, image_token_id=self.encoder.image_token_id, token_budget=token_budget)
        return {
            "step": step,
            "token_budget": token_budget or 0,
            "packs": [_with_pixels(pack, pixels) for pack in packs],
            "rejected": rejected,
        }

    def pack(self, step: int, token_budget: int | None) -> tuple[list[Tree], list[tuple[str, str]]]:
        """Packs of one step, and the samples that cannot be used; no picture is opened."""
        samples, rejected = self._encode(step)
        encoded = [sample for _, sample in samples]
        return pack_samples(encoded, image_token_id=self.encoder.image_token_id, token_budget=token_budget), rejected

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels that every picture is brought to."""
        height, width = to_pixels(self.image_processor, Image.new("RGB", (8, 8))).shape[1:]
        return height, width

    def _encode(self, step: int) -> tuple[list[tuple[str, Encoded]], list[tuple[str, str]]]:
        """(id, tokens) of the step's samples, and (id, reason) of those that cannot be used."""
        samples: list[tuple[str, Encoded]] = []
        rejected: list[tuple[str, str]] = []
        for index in self.plan.members(step):
            conversation = self.conversations[index]
            try:
                samples.append((conversation.id, self.encoder.encode(conversation, self.max_length)))
            except SampleRejected as error:
                rejected.append((conversation.id, str(error)))
        return samples, rejected


def _with_pixels(pack: Tree, pixels: Mapping[str, NDArray[np.uint8]]) -> dict[str, Any]:
    return {"tree": pack, "pixels": np.stack([pixels[name] for name in pack.images]) if pack.images else None}


def step_dataset(builder: StepBuilder) -> Dataset:
    """One row a step, built lazily by the data workers."""
    return Dataset.from_dict({"step": list(range(len(builder.plan)))}).with_transform(builder)
