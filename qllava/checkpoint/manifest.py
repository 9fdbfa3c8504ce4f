"""What a run says of itself: `manifest.json`, and the folder names under `runs/`."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from qllava.errors import RunError
from qllava.files import write_json
from qllava.recipe import Recipe, parse_recipe
from qllava.types import Stage

MANIFEST = "manifest.json"
FORMAT = 1
Status = Literal["running", "interrupted", "finished"]
_RUN_NAME = re.compile(r"^(align|finetune)-(\d{3,})$")


@dataclass(frozen=True)
class Manifest:
    """A run's identity and state.

    Attributes:
        stage: `align` or `finetune`.
        status: a run capped by `max_steps` counts as finished.
        recipe: hash of the resolved recipe (with flags): equal hashes are the same run.
        data: `path`, `sha256`, `samples`.
        model: what the projector fits: language model, tower, layer, patches, projector kind, quantisation, image
            processor class, image token id.
        source: for finetune, the align run's folder name and projector hash.
        steps: optimizer steps done; `total_steps` planned.
        command: what continues or repeats the run.
        files: sha256 of the weights a finished run holds.
        picture: loss with the `right` picture, a `shuffled` one and `none` at the end, where it could be measured.
        packing: of a finished run, `shared`: the part of the tokens that shared prefixes saved, and `fill`: the part of
            the packs' budget that was used; both 0-1.
        versions: of the libraries that shape the numbers.
    """

    stage: Stage
    status: Status
    recipe: str
    data: dict[str, Any]
    model: dict[str, Any]
    source: dict[str, str] = field(default_factory=dict)
    steps: int = 0
    total_steps: int = 0
    command: str = ""
    files: dict[str, str] = field(default_factory=dict)
    picture: dict[str, float] = field(default_factory=dict)
    packing: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def write(self, folder: Path) -> Manifest:
        """Save into a run folder, atomically; returns itself."""
        write_json(folder / MANIFEST, asdict(self))
        return self

    def with_changes(self, **changes: Any) -> Manifest:
        """A copy with some fields replaced."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Run:
    """A run folder with its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def number(self) -> int:
        """The counter in its name."""
        return _number(self.folder)

    @property
    def finished(self) -> bool:
        """Whether it may be used by others."""
        return self.manifest.status == "finished"

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe it was trained with.

        Raises:
            RunError: the file is gone or no longer valid.
        """
        path = self.folder / "recipe.yaml"
        if not path.is_file():
            raise RunError(f"{path} is missing; the run cannot be used without its recipe")
        return parse_recipe(yaml.safe_load(path.read_text(encoding="utf-8")), origin=str(path))


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        RunError: no folder, no manifest, or one that cannot be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise RunError(f"{folder} is no run folder: it holds no {MANIFEST}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(**values)
    except (ValueError, TypeError):
        raise RunError(f"{path} is damaged; restore it or move the run away") from None
    if manifest.format != FORMAT:
        raise RunError(f"{path} has format {manifest.format}, this qllava reads {FORMAT}; update qllava")
    return Run(folder, manifest)


def run_folders(root: Path, stage: Stage) -> list[Path]:
    """The folders of a stage's runs under `runs/` that hold a manifest, oldest first."""
    if not root.is_dir():
        return []
    folders = [p for p in root.iterdir() if (m := _RUN_NAME.match(p.name)) and m.group(1) == stage and p.is_dir()]
    return [folder for folder in sorted(folders, key=_number) if (folder / MANIFEST).is_file()]


def list_runs(root: Path, stage: Stage) -> list[Run]:
    """All runs of a stage under `runs/`, oldest first."""
    return [read_run(folder) for folder in run_folders(root, stage)]


def newest_finished(root: Path, stage: Stage) -> Run | None:
    """The finished run with the highest number."""
    return next((run for run in reversed(list_runs(root, stage)) if run.finished), None)


def next_folder(root: Path, stage: Stage, *, past_locks: bool = False) -> Path:
    """The folder of the next run, e.g. `runs/align-002`; not made.

    `past_locks` counts those that another process is about to make, by their lock files (`train/claim.py`).
    """
    names = [path.name for path in root.iterdir()] if root.is_dir() else []
    if past_locks:
        names = [name.removeprefix(".").removesuffix(".lock") for name in names]
    taken = [int(match.group(2)) for name in names if (match := _RUN_NAME.match(name)) and match.group(1) == stage]
    return root / f"{stage}-{max(taken, default=0) + 1:03d}"


def _number(folder: Path) -> int:
    match = _RUN_NAME.match(folder.name)
    return int(match.group(2)) if match else 0
