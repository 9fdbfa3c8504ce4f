"""What was learnt, alone: PEFT's adapter, the projector, and what is needed to put them on their base again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from qllava.checkpoint.manifest import Run, read_run
from qllava.checkpoint.weights import ADAPTER_CONFIG, ADAPTER_FILE, PROJECTOR_FILE
from qllava.files import sha256

_LEFT_BEHIND = frozenset({"metrics.jsonl", "loss.png", "log.txt", "manifest.json", "rejected.jsonl", "README.md"})


def write_adapter(run: Run, folder: Path) -> int:
    """Copy a run's weights, recipe and processor; returns bytes. The copy is a run folder that `--run` takes.

    Logs, checkpoints and the paths of the machine it was trained on stay behind.
    """
    for path in sorted(run.folder.iterdir()):
        if path.is_file() and path.name not in _LEFT_BEHIND:
            shutil.copyfile(path, folder / path.name)
    data = {key: value for key, value in run.manifest.data.items() if key in ("sha256", "samples")}
    weights = [name for name in (PROJECTOR_FILE, ADAPTER_FILE, ADAPTER_CONFIG) if (folder / name).is_file()]
    files = {name: sha256(folder / name) for name in weights}
    replace(run.manifest, data=data, command="", files=files).write(folder)
    read_run(folder)
    return sum((folder / name).stat().st_size for name in weights)
