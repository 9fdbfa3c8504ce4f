"""The folder of a run: opened with recipe and manifest, logged into, closed with all that the run leaves."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from transformers import BaseImageProcessor

from qllava.checkpoint.manifest import Manifest, Run
from qllava.checkpoint.weights import ADAPTER_CONFIG, ADAPTER_FILE, PROJECTOR_FILE, llava_of, save_trained
from qllava.data.chat_template import load_chat_template
from qllava.data.check_cache import write_findings
from qllava.data.encode import ChatEncoder
from qllava.evaluate.sees import Sight
from qllava.files import atomic_directory, sha256
from qllava.model.build import vision_config
from qllava.model.processor import build_processor
from qllava.redact import redact
from qllava.report.loss_curve import write_loss_curve
from qllava.train.callbacks import METRICS_FILE, packing_summary
from qllava.train.parts import Parts
from qllava.train.request import TrainRequest, recipe_digest, source_entry
from qllava.train.samples import CHECK_FILE, Samples

REJECTED_FILE = "rejected.jsonl"
LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")


def open_run(
    request: TrainRequest,
    folder: Path,
    unfinished: Run | None,
    samples: Samples,
    encoder: ChatEncoder,
    image_processor: BaseImageProcessor,
) -> Manifest:
    """Make the folder with its recipe and manifest, or take the one that is there."""
    if unfinished is not None:
        return unfinished.manifest.with_changes(status="running").write(folder)
    manifest = Manifest(
        stage=request.stage,
        status="running",
        recipe=recipe_digest(request.recipe),
        data={
            "path": request.data.path,
            "sha256": request.data.digest,
            "image_root": str(request.data.image_root),
            "samples": len(samples.conversations),
        },
        model={
            **request.recipe.model.model_dump(),
            "image_token_id": encoder.image_token_id,
            # By name: the generic class changes its backend, and with it its pixels, with what is installed.
            "image_processor": type(image_processor).__name__,
        },
        source=source_entry(request.source),
        total_steps=len(samples.steps),
        command=request.command,
        versions={name: version(name) for name in LIBRARIES},
    )
    with atomic_directory(folder) as aside:
        write_findings(aside / CHECK_FILE, samples.findings)
        (aside / "recipe.yaml").write_text(request.recipe.to_yaml(), encoding="utf-8")
        manifest.write(aside)
    return manifest


def finish_run(
    request: TrainRequest,
    folder: Path,
    manifest: Manifest,
    parts: Parts,
    sight: Sight | None,
    rejected: dict[str, str],
) -> None:
    """Write weights, processor, curve and what was left out; the manifest comes last: `finished` means complete."""
    if rejected:
        lines = (json.dumps({"id": sample, "reason": reason}) + "\n" for sample, reason in rejected.items())
        (folder / REJECTED_FILE).write_text("".join(lines), encoding="utf-8")
    save_trained(parts.model, folder)
    tower = vision_config(llava_of(parts.model))
    build_processor(
        image_processor=parts.image_processor,
        tokenizer=parts.encoder.tokenizer,
        chat_template=load_chat_template(request.recipe.template).source,
        patch_size=tower.patch_size,
        patches=request.recipe.model.patches,
        has_cls=tower.model_type == "clip_vision_model",
    ).save_pretrained(folder)
    write_loss_curve(folder / METRICS_FILE, folder / "loss.png")
    weights = [name for name in (PROJECTOR_FILE, ADAPTER_FILE, ADAPTER_CONFIG) if (folder / name).is_file()]
    manifest.with_changes(
        status="finished",
        steps=manifest.total_steps,
        files={name: sha256(folder / name) for name in weights},
        packing=packing_summary(folder / METRICS_FILE),
        picture={name: seen.loss.value for name, seen in sight.conditions.items()} if sight else {},
    ).write(folder)


@contextmanager
def log_file(
    folder: Path, names: Sequence[str] = ("qllava", "transformers", "trl", "peft", "accelerate", "py.warnings")
) -> Iterator[None]:
    """What the libraries say goes to `log.txt` of the run."""
    handler = _RunLog(folder / "log.txt", encoding="utf-8")
    handler.setFormatter(_Redacted("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


class _RunLog(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Nothing: on a full disk the stock one prints a traceback a line; that the disk is full is said elsewhere."""


class _Redacted(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))
