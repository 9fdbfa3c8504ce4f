"""What was asked of a training run, after recipe, files and device are known; and which run folder answers it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qllava.checkpoint.manifest import Run, list_runs, next_folder, read_run
from qllava.data.encode import ChatEncoder
from qllava.data.findings import MOST_BAD
from qllava.data.formats import ConversationTable
from qllava.errors import DataError, RunError, UsageError
from qllava.files import sha256
from qllava.plan.device import DeviceProbe
from qllava.recipe import Recipe
from qllava.types import STAGE_FILES, Conversation, Stage

CARD = "card.json"


@dataclass(frozen=True)
class DataSource:
    """Where the samples come from.

    Attributes:
        path: a local file, or a hub id as it was typed.
        image_root: folder that the samples' image names are relative to.
        digest: sha256 of a local file, the id itself for a hub set; part of a run's identity.
        card: gen-data's `card.json` beside the file, or empty.
    """

    path: str
    image_root: Path
    digest: str
    card: dict[str, Any]


@dataclass(frozen=True)
class TrainRequest:
    """One `qllava train`.

    Attributes:
        stage: align or finetune.
        recipe: resolved, flags included.
        why: where the recipe came from.
        data: where the samples come from.
        conversations: the samples themselves, opened once (a large JSON file takes a while to check).
        runs: folder of all runs.
        probe: the device.
        source: for finetune, the align run whose projector is used.
        new: start another run even if an unfinished one could be continued.
        vram_gib: plan for this much memory at most.
        command: the command line that repeats this.
        max_bad: share of samples that cannot be trained on, 0-1, above which training does not start.
        show: told the encoder and the first samples of step 1 before it; the command line prints them.
        report_to: stock loggers of Trainer, e.g. `("wandb",)`.
    """

    stage: Stage
    recipe: Recipe
    why: str
    data: DataSource
    conversations: ConversationTable
    runs: Path
    probe: DeviceProbe
    command: str
    source: Run | None = None
    new: bool = False
    vram_gib: float | None = None
    max_bad: float = MOST_BAD
    show: Callable[[ChatEncoder, Sequence[Conversation]], None] | None = None
    report_to: tuple[str, ...] = ()


def find_data(data: str | None, *, stage: Stage, images: Path | None) -> DataSource:
    """Locate the samples of a stage and the folder of their pictures.

    Args:
        data: a file, a folder that holds `align.json` / `instruct.json`, a hub id, or None for `data/`.
        images: overrides the image root; else gen-data's card, else the file's own folder.

    Raises:
        DataError: a local file or the image folder is missing, with the command that makes it.
        UsageError: `images` is not a folder.
    """
    path = Path(data) if data is not None else Path("data")
    if path.is_dir():
        path = path / STAGE_FILES[stage]
    if images is not None and not images.is_dir():
        raise UsageError(f"--images {images} is not a folder")
    if not path.is_file():
        if data is not None and _looks_like_hub_id(data):
            return DataSource(data, images or Path(), data, {})
        raise DataError(
            f"{path} does not exist; make it with `qllava gen-data --images coco/`, or name a file with --data"
        )
    card = _read_card(path.parent / CARD)
    root = images or (path.parent / card["image_root"] if "image_root" in card else path.parent)
    if not root.is_dir():
        raise DataError(
            f"the image folder {root} (named by {path.parent / CARD}) does not exist; give it with --images"
        )
    return DataSource(str(path), root, sha256(path), card)


def find_source(runs: Path, align: Path | None) -> Run:
    """The align run that stage 2 builds on: the newest, or `align`.

    Raises:
        RunError: there is none, or it is unfinished; names the command.
    """
    if align is not None:
        run = read_run(align)
    else:
        found = list_runs(runs, "align")
        if not found:
            raise RunError(f"stage 2 needs a finished align run and {runs} holds none; first `qllava train --stage 1`")
        run = found[-1]
    manifest = run.manifest
    if manifest.stage != "align":
        raise RunError(f"{run.folder} is a {manifest.stage} run; --align needs an align run")
    if not run.finished:
        raise RunError(
            f"{run.folder} is unfinished (step {manifest.steps} of {manifest.total_steps}); continue it with "
            f"`{manifest.command}`, or name a finished one with --align"
        )
    return run


def recipe_digest(recipe: Recipe) -> str:
    """Identity of a resolved recipe; its name does not count, nor what changes no weight: saving and data workers."""
    saving = {"save_steps", "keep_checkpoints"}
    left_out: dict[str, Any] = {"data": {"workers"}, "align": saving, "finetune": saving}
    settings = recipe.model_dump(mode="json", exclude={"name": True, "description": True, **left_out})
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def check_source(recipe: Recipe, source: Run) -> None:
    """Stage 2 must train the model that stage 1 aligned.

    Raises:
        RunError: a setting that shapes the model differs; shows both.
    """
    aligned = source.recipe
    ours, theirs = recipe.model.model_dump(), aligned.model.model_dump()
    ours["template"], theirs["template"] = recipe.template, aligned.template
    ours["image_aspect"], theirs["image_aspect"] = recipe.data.image_aspect, aligned.data.image_aspect
    different = [f"{key}: {theirs[key]} there, {ours[key]} here" for key in ours if ours[key] != theirs[key]]
    if different:
        raise RunError(
            f"{source.folder} aligned another model ({'; '.join(different)}); drop the setting, or align again with "
            "`qllava train --stage 1 --new` and this recipe"
        )


def claim_run(request: TrainRequest) -> tuple[Path, Run | None]:
    """The folder to train in, and the unfinished run that is continued there, if any.

    Repeating a command continues the newest unfinished run of the same stage, recipe, data and source.
    """
    if not request.new:
        for run in reversed(list_runs(request.runs, request.stage)):
            if run.finished:
                break
            if _same(run, request):
                return run.folder, run
    return next_folder(request.runs, request.stage, past_locks=request.new), None


def source_entry(source: Run | None) -> dict[str, str]:
    """What a finetune manifest keeps of its align run."""
    if source is None:
        return {}
    return {"run": source.folder.name, "projector": source.manifest.files["projector.safetensors"]}


def _same(run: Run, request: TrainRequest) -> bool:
    manifest = run.manifest
    return (
        manifest.recipe == recipe_digest(request.recipe)
        and manifest.data.get("sha256") == request.data.digest
        and manifest.source == source_entry(request.source)
    )


def _read_card(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise DataError(f"{path} is not readable JSON; run `qllava gen-data` again") from None
    if not isinstance(card, dict):
        raise DataError(f"{path} is no data card; run `qllava gen-data` again")
    return card


def _looks_like_hub_id(text: str) -> bool:
    parts = text.split("/")
    return len(parts) == 2 and all(parts) and "." not in parts[1] and not text.startswith((".", "~"))
