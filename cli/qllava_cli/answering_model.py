"""The model that answers in chat, serve and eval: found, loaded on what this machine has, and described."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qllava_cli.console import console, say

if TYPE_CHECKING:
    from qllava.evaluate.target import Target
    from qllava.infer.engine import Loaded


def find_model(runs: Path, run: Path | None) -> Target:
    """The newest finished finetune run, a run's folder, or a folder in transformers' format such as an export.

    Raises:
        RunError, ModelError: it is not there or cannot be used.
    """
    from qllava.checkpoint.load import find_run  # noqa: PLC0415 - loads torch
    from qllava.evaluate.target import published_target, run_target  # noqa: PLC0415

    if run is not None and (run / "config.json").is_file():
        return published_target(str(run))
    return run_target(find_run(runs, run))


def load_model(target: Target) -> Loaded:
    """Load on the card, or on the processor where there is none.

    Raises:
        DeviceError: a card that is present and cannot be used.
        RunError, ModelError: as `Target.load`.
    """
    device = usable_device()
    if not console().is_terminal:
        return target.load(device)
    with console().status(f"loading {target.name}"):
        return target.load(device)


def usable_device() -> str:
    """`cuda`, or `cpu` where there is no card.

    Raises:
        DeviceError: a card that is present and cannot be used.
    """
    from qllava.plan.device import probe_devices, require_usable  # noqa: PLC0415

    probe = probe_devices()
    require_usable(probe)
    return "cuda" if probe.kind == "cuda" else "cpu"


def describe_model(target: Target, loaded: Loaded) -> None:
    """Say which model answers."""
    if target.run is None:
        say("model", target.name, f"on {loaded.device}", "--run")
        return
    recipe = target.run.recipe
    bits = "NF4, 4 bits" if recipe.model.quantization == "nf4" else "bf16"
    say("run", target.name, f"{target.run.manifest.steps:,} steps", "--run")
    say("base", f"{recipe.model.language_model} + {recipe.model.vision_tower}", f"{bits}, on {loaded.device}")
    say("template", recipe.template)
