"""Is this still training? Looked at in every step, after the backward pass and before the weights change."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from qllava.errors import RunError
from qllava.files import write_json
from qllava.train.callbacks import TrainView
from qllava.types import Conversation

_PROJECTOR = "the projector"
# By the names of the optimizer's groups (`train/stages.py`).
_NAMES = {"projector": _PROJECTOR, "lora": "LoRA"}


class BrokenTrainingError(RunError):
    """Loss, gradients or weights are no longer numbers; the weights on disk are those of before."""


class Health:
    """Stops a run whose numbers are gone, and says once what else is wrong.

    Args:
        run_folder: where the batch of a broken step is written.
        members: step (0-based) -> its samples.
        view: where warnings go.
        advice: how to look at a file of samples, e.g. `qllava data show FILE --stage 1`; `{file}` stands for it.
    """

    def __init__(
        self, run_folder: Path, *, members: Callable[[int], list[Conversation]], view: TrainView, advice: str
    ) -> None:
        self._run_folder = run_folder
        self._members = members
        self._view = view
        self._advice = advice
        self._said: set[str] = set()
        self._steps_at_zero = 0

    def check(
        self,
        step: int,
        *,
        loss: torch.Tensor,
        groups: Sequence[Mapping[str, Any]],
        supervised: int,
    ) -> None:
        """Look at one step.

        Args:
            step: 0-based.
            loss: (), of the step.
            groups: the optimizer's: `params`, `name`, `lr`; gradients not yet clipped, which would spread one NaN.
            supervised: tokens that were trained on.

        Raises:
            BrokenTrainingError: loss, a gradient or the projector's weights are NaN or infinite.
        """
        named = {f"the gradient of {_NAMES[group['name']]}": _gradient_norm(group["params"], loss) for group in groups}
        projector = [p.detach() for group in groups if group["name"] == "projector" for p in group["params"]]
        weights = {_PROJECTOR: _norm(projector, loss)} if projector else {}
        tensors = {"the loss": loss} | named | weights
        # One transfer for all of them.
        values = dict(
            zip(tensors, torch.stack([t.float().reshape(()) for t in tensors.values()]).tolist(), strict=True)
        )
        broken = {name: value for name, value in values.items() if not math.isfinite(value)}
        if broken:
            raise self._broken(step, broken)
        self._look_for_idleness(step, values, named, supervised, [float(group["lr"]) for group in groups])

    def check_weights(self, step: int, groups: Sequence[Mapping[str, Any]]) -> None:
        """Before a checkpoint is written: finite gradients can still make weights that are not.

        Args:
            step: 0-based, the one that was just done.
            groups: as in `check`.

        Raises:
            BrokenTrainingError: a weight that learns is NaN or infinite, or so large that it might as well be.
        """
        for group in groups:
            size = float(torch.nn.utils.get_total_norm([parameter.detach() for parameter in group["params"]]))
            if not math.isfinite(size):
                raise self._broken(step, {_NAMES[group["name"]]: size})

    def _broken(self, step: int, broken: Mapping[str, float]) -> BrokenTrainingError:
        what = ", ".join(f"{name} is {'NaN' if math.isnan(value) else 'infinite'}" for name, value in broken.items())
        path = self._run_folder / f"bad-step-{step + 1:06d}.json"
        try:
            write_json(path, [as_row(sample) for sample in self._members(step)])
            batch = f"its samples: `{self._advice.format(file=path)}`"
        except OSError as error:
            batch = f"its samples could not be written to {path} ({error.strerror})"
        return BrokenTrainingError(
            f"step {step + 1}: {what}; stopped before that was saved, the last checkpoint is good; {batch}; "
            "a smaller --lr usually helps, or leave these samples out"
        )

    def _look_for_idleness(
        self, step: int, values: Mapping[str, float], gradients: Mapping[str, Any], supervised: int, rates: list[float]
    ) -> None:
        if supervised == 0:
            self._say("nothing trained", f"in step {step + 1}", "none of its samples has a token to train on")
            return
        if values["the loss"] == 0.0:
            self._say(
                "loss is exactly 0", f"in step {step + 1}", "the answers are known by heart; training adds nothing"
            )
        for name in gradients:
            # A step of text alone does not touch the projector.
            if values[name] == 0.0 and name not in self._said and (_PROJECTOR not in name or self._has_pictures(step)):
                self._say(name, "is 0", f"in step {step + 1}: it does not learn; check the recipe")
        # A schedule may begin or end at 0 for one step.
        self._steps_at_zero = self._steps_at_zero + 1 if all(rate == 0.0 for rate in rates) else 0
        if self._steps_at_zero == 2:
            self._say("learning rate is 0", f"since step {step}", "the weights do not change; check the scheduler")

    def _has_pictures(self, step: int) -> bool:
        return any(sample.images for sample in self._members(step))

    def _say(self, name: str, value: str, why: str) -> None:
        if name not in self._said:
            self._said.add(name)
            self._view.note(name, value, why)


def as_row(sample: Conversation) -> dict[str, Any]:
    """A sample as a row that every data reader of qllava takes (`messages` with structured parts)."""
    row: dict[str, Any] = {"id": sample.id, "images": list(sample.images), "messages": list(sample.messages)}
    return row if sample.kind is None else row | {"kind": sample.kind}


def _gradient_norm(parameters: Sequence[torch.nn.Parameter], like: torch.Tensor) -> torch.Tensor:
    return _norm([p.grad for p in parameters if p.grad is not None], like)


def _norm(tensors: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """() L2 norm of all tensors together on the device of `like`; 0 for none."""
    if not tensors:
        return torch.zeros((), device=like.device)
    return torch.nn.utils.get_total_norm(tensors).to(like.device)
