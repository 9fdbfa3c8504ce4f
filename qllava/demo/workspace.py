"""The folder `qllava demo` works in: rendered scenes as COCO, a picture to talk about, and a qllava.yaml."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from qllava.demo.scenes import write_coco, write_demo_image
from qllava.errors import UsageError
from qllava.recipe import PROJECT_FILE

IMAGES = "coco"
IMAGE = "image.jpg"
RECIPE = "smol"
TRAIN_PICTURES = 2000
# Six questions a picture: well over 300.
HELDOUT_PICTURES = 80

_MARKER = ".demo.json"
_FORMAT = 1


def write_workspace(folder: Path, seed: int, *, train: int = TRAIN_PICTURES, heldout: int = HELDOUT_PICTURES) -> bool:
    """Render the workspace into `folder`; an equal one that is there already is left alone.

    It holds `coco/` (`train2017`, `val2017`, `annotations`), `image.jpg` and `qllava.yaml` with the recipe and the
    seed, and a hidden marker by which a later call knows its own files. One that was broken off is written again.

    Args:
        folder: made if it is not there.
        seed: of the scenes; also written into qllava.yaml, where training reads it.
        train: pictures to train on.
        heldout: pictures to measure on.

    Returns: whether anything was written.

    Raises:
        UsageError: the folder holds other files, another seed's workspace, or files of its own that were changed.
    """
    settings = {"format": _FORMAT, "seed": seed, "train": train, "heldout": heldout}
    found = _read_marker(folder)
    if found is not None and found.get("files"):
        _check_same(folder, found, settings)
        return False
    if found is None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already and is no demo folder; choose another with --out")
    folder.mkdir(parents=True, exist_ok=True)
    # A marker without hashes says: ours, but not whole yet.
    _write_marker(folder, settings)
    write_coco(folder / IMAGES, train=train, heldout=heldout, seed=seed)
    write_demo_image(folder / IMAGE, seed)
    (folder / PROJECT_FILE).write_text(
        f"# Read by every qllava command in this folder.\nrecipe: {RECIPE}\nseed: {seed}\nteacher: template\n",
        encoding="utf-8",
    )
    _write_marker(folder, {**settings, "files": {name: _hash(folder / name) for name in _own_files(folder)}})
    return True


def _own_files(folder: Path) -> list[str]:
    """What is compared: all but the pictures of `coco/`, which are many and which nobody edits."""
    annotations = sorted((folder / IMAGES / "annotations").glob("*.json"))
    return [IMAGE, PROJECT_FILE, *(path.relative_to(folder).as_posix() for path in annotations)]


def _check_same(folder: Path, found: dict[str, Any], settings: dict[str, int]) -> None:
    for name, wanted in settings.items():
        if found.get(name) != wanted:
            raise UsageError(
                f"{folder} was rendered with {name}={found.get(name)}, not {wanted}; "
                f"choose another folder with --out, or delete {folder}"
            )
    for name, expected in found["files"].items():
        path = folder / name
        if not path.is_file() or _hash(path) != expected:
            change = "changed" if path.is_file() else "removed"
            raise UsageError(
                f"{path} was {change} since the demo wrote it; choose another folder with --out, or undo it"
            )


def _read_marker(folder: Path) -> dict[str, Any] | None:
    path = folder / _MARKER
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write_marker(folder: Path, content: dict[str, Any]) -> None:
    (folder / _MARKER).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
