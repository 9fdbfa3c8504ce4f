"""What is measured: a run of ours or a published LLaVA model, named and told apart before anything is loaded."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qllava.checkpoint.load import find_run, load_run
from qllava.checkpoint.manifest import MANIFEST, Run, newest_finished
from qllava.checkpoint.published import check_published, load_published
from qllava.errors import RunError, UsageError
from qllava.evaluate.answer_file import Heading
from qllava.infer.engine import Loaded

PUBLISHED_RESULTS = Path("eval")


@dataclass(frozen=True)
class Target:
    """A model to measure.

    Attributes:
        name: the run's folder, or the hub id or folder of a published model.
        digest: what tells its weights from others of that name.
        template: the chat template it is asked through; `its own` for a published model.
        results: folder that what is measured of it goes under, one folder a benchmark.
        run: the run, if it is one.
        quantization: of a published model: `none` or `nf4`; a run has that of its recipe.
    """

    name: str
    digest: str
    template: str
    results: Path
    run: Run | None = None
    quantization: str = "none"

    def load(self, device: str) -> Loaded:
        """Load it.

        Raises:
            RunError, ModelError: as `load_run` and `load_published`.
        """
        if self.run is not None:
            return load_run(self.run, device=device)
        return load_published(self.name, device=device, quantization=self.quantization)

    def heading(self, benchmark: str, questions: str, settings: Mapping[str, Any]) -> Heading:
        """The heading of its answers to a question set; `questions` is the set's digest."""
        quantization = {} if self.run is not None else {"quantization": self.quantization}
        return Heading(benchmark, questions, self.name, self.digest, self.template, {**settings, **quantization})


def find_target(
    runs: Path,
    run: Path | None = None,
    model: str | None = None,
    *,
    quantization: str = "none",
    align_too: bool = False,
) -> Target:
    """The model that a command line names: `run`, `model`, or the newest finished finetune run under `runs`.

    Args:
        runs: folder of all runs.
        run: a run's folder.
        model: hub id or folder of any LLaVA model.
        quantization: of `model`.
        align_too: take the newest finished align run where there is no finetune run.

    Raises:
        UsageError: both are given.
        RunError, ModelError: it is not there or cannot be used.
    """
    if model is not None:
        if run is not None:
            raise UsageError(f"--run {run} and --model {model} name two models; give one of them")
        return published_target(model, quantization)
    if quantization != "none":
        raise UsageError("--nf4 is for --model; a run is measured in the quantisation it was trained in")
    if run is None and align_too and newest_finished(runs, "finetune") is None:
        aligned = newest_finished(runs, "align")
        if aligned is not None:
            return run_target(aligned)
    return run_target(find_run(runs, run))


def run_target(run: Run) -> Target:
    """A finished run as a target.

    Raises:
        RunError: its recipe is gone, or its manifest names no weights.
    """
    files = run.manifest.files
    if not files:
        raise RunError(f"{run.folder / MANIFEST} names no weights; train the run again")
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]
    return Target(str(run.folder), digest, run.recipe.template, run.folder / "eval", run)


def published_target(reference: str, quantization: str = "none") -> Target:
    """A published model as a target.

    Raises:
        UsageError, ModelError: as `check_published`.
    """
    digest = check_published(reference)
    return Target(reference, digest, "its own", PUBLISHED_RESULTS / slug(reference), None, quantization)


def any_target(reference: str) -> Target:
    """A run's folder, or the hub id or folder of a published model: whichever it is.

    Raises:
        RunError, ModelError: neither can be used.
    """
    folder = Path(reference)
    if (folder / MANIFEST).is_file() and not (folder / "config.json").is_file():
        return run_target(find_run(folder.parent, folder))
    return published_target(reference)


def slug(name: str) -> str:
    """A name as a folder or file name: letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.") or "model"
