"""From a finished run folder back to a model that answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from transformers import BaseImageProcessor, LlavaForConditionalGeneration

from qllava.checkpoint.manifest import Run, list_runs, newest_finished, read_run
from qllava.checkpoint.weights import load_trained
from qllava.data.chat_template import load_chat_template
from qllava.data.encode import ChatEncoder
from qllava.data.images import build_image_processor
from qllava.errors import RunError
from qllava.files import sha256
from qllava.model.build import assemble
from qllava.model.embedded import resolve_model
from qllava.model.lora import add_lora
from qllava.model.sizes import tokens_per_image
from qllava.model.tokenizer import load_tokenizer
from qllava.recipe import Recipe


@dataclass(frozen=True)
class LoadedRun:
    """A trained model ready to answer: everything in eval mode, nothing requires grad.

    `model` runs under bf16 autocast (its projector and LoRA are fp32); `encoder` speaks the run's chat template.
    """

    run: Run
    recipe: Recipe
    model: PeftModel | LlavaForConditionalGeneration
    encoder: ChatEncoder
    image_processor: BaseImageProcessor
    device: str


def find_run(runs: Path, name: Path | None = None) -> Run:
    """The run to talk to: `name` (a run folder), or the newest finished finetune run under `runs`.

    Raises:
        RunError: there is none, with the command that makes one.
    """
    if name is not None:
        run = read_run(name)
        if not run.finished:
            raise RunError(f"{name} is {run.manifest.status}, not finished; continue it with `{run.manifest.command}`")
        return run
    found = newest_finished(runs, "finetune")
    if found is not None:
        return found
    unfinished = list_runs(runs, "finetune")
    if unfinished:
        last = unfinished[-1]
        raise RunError(
            f"{last.folder} is {last.manifest.status} at step {last.manifest.steps} of {last.manifest.total_steps}; "
            f"continue it with `{last.manifest.command}`"
        )
    raise RunError(f"there is no finetune run under {runs}; make one with `qllava train --stage 2`")


def load_run(run: Run, *, device: str) -> LoadedRun:
    """Assemble a run's base in its quantisation and load projector and adapter, checked by hash.

    Raises:
        RunError: a weight file is missing, damaged, or not the one the manifest names.
        ModelError: the base model or tower cannot be loaded.
    """
    verify_files(run)
    recipe = run.recipe
    encoder = build_encoder(recipe, template=recipe.template)
    model = assemble(
        **recipe.model.model_dump(), image_token_id=encoder.image_token_id, device=device, seed=recipe.seed
    )
    answering: PeftModel | LlavaForConditionalGeneration = model
    if run.manifest.stage == "finetune":
        lora = recipe.lora
        answering = add_lora(model, rank=lora.rank, alpha=lora.scaling_alpha, dropout=lora.dropout, seed=recipe.seed)
    load_trained(answering, run.folder)
    answering.requires_grad_(False)
    answering.eval()
    return LoadedRun(
        run=run,
        recipe=recipe,
        model=answering,
        encoder=encoder,
        image_processor=build_image_processor(resolve_model(recipe.model.vision_tower), recipe.data.image_aspect),
        device=device,
    )


def build_encoder(recipe: Recipe, *, template: str) -> ChatEncoder:
    """The encoder of a recipe's tokenizer and tower with a given chat template."""
    tokenizer, image_token_id = load_tokenizer(recipe.model.language_model)
    return ChatEncoder(
        tokenizer=tokenizer,
        template=load_chat_template(template),
        image_token_id=image_token_id,
        tokens_per_image=tokens_per_image(recipe.model),
    )


def verify_files(run: Run) -> None:
    """Check the files a manifest names against their hashes.

    Raises:
        RunError: one is missing or differs.
    """
    for name, expected in run.manifest.files.items():
        path = run.folder / name
        if not path.is_file():
            raise RunError(f"{path} is missing; the run cannot be used without it")
        if sha256(path) != expected:
            raise RunError(f"{path} is damaged or was changed: its hash differs from the manifest's; restore it")
