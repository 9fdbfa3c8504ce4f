"""`qllava train`: one command for both stages."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qllava.errors import UsageError
from qllava.redact import redact
from qllava_cli.console import console, note, say
from qllava_cli.options import MOST_BAD, MaxBadOption, RecipeOption, Resolved, SetOption, VramOption, resolve_recipe
from qllava_cli.sample_view import print_first

if TYPE_CHECKING:
    from qllava.checkpoint.manifest import Run
    from qllava.plan.device import DeviceProbe
    from qllava.plan.plan import Plan
    from qllava.types import Stage

# Longer runs ask first.
ASK_ABOVE_HOURS = 24.0
# LLaVA aligned on 558k-595k pairs; far below this a projector learns names, not pictures.
ENOUGH_PAIRS = 50_000
PARROT = (
    "this data was made by the template teacher: it makes a template parrot, not an assistant that talks; instead:",
    "LLaVA's own data: qllava train --stage 2 --data llava_instruct_150k.json --images coco/train2017",
    "a local teacher: vllm serve Qwen/Qwen2.5-7B-Instruct",
    "then: qllava gen-data --images coco/ --base-url http://localhost:8000/v1 --model Qwen/Qwen2.5-7B-Instruct "
    "--out talk, and train with --data talk",
)


def train(
    stage: Annotated[int, typer.Option("--stage", min=1, max=2, help="1 aligns the projector, 2 finetunes with LoRA.")],
    recipe: RecipeOption = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="LLaVA or messages JSON, JSONL, parquet, or hub id.", show_default="data/"),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder the samples' image names are relative to.")
    ] = None,
    kinds: Annotated[
        str | None,
        typer.Option("--kinds", help="Only these kinds of samples, or shares of them: conversation,detail=5%."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of all runs.")] = Path("runs"),
    align: Annotated[
        Path | None, typer.Option("--align", help="Stage 2: the align run to build on.", show_default="newest finished")
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Start another run instead of continuing.")] = False,
    epochs: Annotated[float | None, typer.Option("--epochs", min=0.0, help="Passes over the data.")] = None,
    max_steps: Annotated[int | None, typer.Option("--max-steps", min=1, help="Stop after this many steps.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Samples of one step.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate: projector in stage 1, LoRA in 2.")] = None,
    projector_lr: Annotated[
        float | None, typer.Option("--projector-lr", help="Learning rate of the projector in stage 2.")
    ] = None,
    lora_r: Annotated[int | None, typer.Option("--lora-r", min=1, help="LoRA rank.")] = None,
    lora_alpha: Annotated[
        int | None, typer.Option("--lora-alpha", min=1, help="LoRA alpha.", show_default="2 x rank")
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option("--keep", min=1, help="Checkpoints that stay, besides the best.", show_default="2"),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Order of the data and fresh weights.")] = None,
    optimizer: Annotated[
        str | None,
        typer.Option("--optimizer", help="auto, adamw, or paged_adamw_8bit (NVIDIA).", show_default="auto"),
    ] = None,
    no_pack: Annotated[
        bool, typer.Option("--no-pack", help="One sample a sequence: slower, the same gradients.")
    ] = False,
    max_bad: MaxBadOption = MOST_BAD,
    vram: VramOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; load and download nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a long run.")] = False,
    assignments: SetOption = None,
) -> None:
    """Train one stage, or continue the run that was interrupted. Repeat the command to continue."""
    from qllava.plan.device import probe_devices  # noqa: PLC0415
    from qllava.types import STAGE_NAMES  # noqa: PLC0415

    name = STAGE_NAMES[stage]
    flags: dict[str, object] = {
        f"{name}.epochs": epochs,
        f"{name}.max_steps": max_steps,
        f"{name}.batch_size": batch_size,
        f"{name}.learning_rate": lr,
        f"{name}.projector_learning_rate": projector_lr,
        f"{name}.keep_checkpoints": keep,
        "lora.rank": lora_r,
        "lora.alpha": lora_alpha,
        "train.optimizer": optimizer,
        "data.pack": False if no_pack else None,
        "seed": seed,
    }
    if stage == 1:
        for flag, value in {"--lora-r": lora_r, "--lora-alpha": lora_alpha, "--projector-lr": projector_lr}.items():
            if value is not None:
                raise UsageError(f"{flag} belongs to stage 2; stage 1 trains the projector alone, with --lr")
        if align is not None:
            raise UsageError("--align belongs to stage 2; stage 1 makes an align run")
    from qllava.train.card import use_expandable_segments  # noqa: PLC0415

    use_expandable_segments()  # before the probe below makes torch use the card
    probe = probe_devices()
    # A dry run plans stage 2 before stage 1 is done; with an explicit recipe it needs no align run either.
    source = _source(out, align, required=not dry_run) if stage == 2 else None
    resolved = _resolve(recipe, assignments, flags, probe, vram, source)
    if dry_run:
        _dry_run(resolved, name, data, images, kinds, probe, vram)
        return
    _train(resolved, name, data, images, kinds, out, source, probe, vram, max_bad=max_bad, new=new, yes=yes)


def _source(runs: Path, align: Path | None, *, required: bool) -> Run | None:
    from qllava.errors import RunError  # noqa: PLC0415
    from qllava.train.request import find_source  # noqa: PLC0415

    try:
        return find_source(runs, align)
    except RunError:
        if required:
            raise
        return None


def _resolve(
    recipe: str | None,
    assignments: list[str] | None,
    flags: dict[str, object],
    probe: DeviceProbe,
    vram: float | None,
    source: Run | None,
) -> Resolved:
    """Stage 2 starts from its align run's recipe unless one is named."""
    if source is None or recipe is not None:
        return resolve_recipe(recipe, assignments, flags, probe=probe, vram_gib=vram)
    inherited = resolve_recipe(str(source.folder / "recipe.yaml"), assignments, flags, probe=probe, vram_gib=vram)
    return Resolved(inherited.recipe, f"inherited from {source.folder}")


def _dry_run(
    resolved: Resolved,
    stage: Stage,
    data: str | None,
    images: Path | None,
    kinds: str | None,
    probe: DeviceProbe,
    vram: float | None,
) -> None:
    from qllava.plan.plan import make_plan  # noqa: PLC0415
    from qllava_cli.console import result  # noqa: PLC0415

    samples = _count_samples(data, stage, images, kinds)
    plan = make_plan(resolved.recipe, stage, probe, samples, vram)
    _show_plan(plan, resolved.why)
    result(resolved.recipe.to_yaml())


def _train(
    resolved: Resolved,
    stage: Stage,
    data: str | None,
    images: Path | None,
    kinds: str | None,
    runs: Path,
    source: Run | None,
    probe: DeviceProbe,
    vram: float | None,
    *,
    max_bad: float,
    new: bool,
    yes: bool,
) -> None:
    from functools import partial  # noqa: PLC0415

    from qllava.data.formats import load_conversations  # noqa: PLC0415
    from qllava.plan.device import require_usable  # noqa: PLC0415
    from qllava.plan.plan import make_plan  # noqa: PLC0415
    from qllava.train.kinds import restrict_to_kinds  # noqa: PLC0415
    from qllava.train.request import TrainRequest, find_data  # noqa: PLC0415

    require_usable(probe)
    found = find_data(data, stage=stage, images=images)
    conversations = load_conversations(found.path, image_root=found.image_root, strict=False)
    if kinds is not None:
        found, conversations, selected = restrict_to_kinds(found, conversations, kinds)
        say("kinds", selected.sentence(), f"{selected.left_out:,} samples left out", "--kinds")
    samples = len(conversations)
    plan = make_plan(resolved.recipe, stage, probe, samples, vram)
    _show_plan(plan, resolved.why)
    if source is not None:
        lora = resolved.recipe.lora
        say("align run", source.folder, "the newest finished", "--align")
        say(
            "LoRA",
            f"r {lora.rank}, alpha {lora.scaling_alpha}",
            "alpha 2 x r" if lora.alpha is None else "",
            "--lora-r",
        )
    _warn_about_data(stage, samples, found.card, probe)
    _ask_if_long(plan, yes=yes)
    request = TrainRequest(
        stage=stage,
        recipe=resolved.recipe,
        why=resolved.why,
        data=found,
        conversations=conversations,
        runs=runs,
        probe=probe,
        command=_this_command(),
        source=source,
        new=new,
        vram_gib=vram,
        max_bad=max_bad,
        show=partial(print_first, stage=stage, max_length=resolved.recipe.data.max_length),
        report_to=_loggers(),
    )
    from qllava_cli.quiet import quiet_libraries  # noqa: PLC0415
    from qllava_cli.training_view import LiveView  # noqa: PLC0415

    quiet_libraries()  # before the imports below: some libraries speak while they load
    from qllava.train.run import train as run_training  # noqa: PLC0415

    outcome = run_training(request, LiveView(console()))
    folder = outcome.run.folder
    if outcome.rejected:
        note(f"{len(outcome.rejected)} samples were left out while training; {folder / 'rejected.jsonl'} lists them")
    packing = outcome.run.manifest.packing
    if packing and resolved.recipe.data.pack:
        say("packing", f"{packing['shared']:.0%} of the tokens saved", f"packs {packing['fill']:.0%} full", "--no-pack")
    if outcome.sight is not None:
        say("picture", outcome.sight.sentence(stage))
        if (advice := outcome.sight.advice(stage)) is not None:
            note(f"warning: {advice}")
    say("run", folder, f"loss curve in {folder / 'loss.png'}")
    following = "qllava train --stage 2 --lora-r 64" if stage == "align" else "qllava chat image.jpg"
    say("next", following)


def _show_plan(plan: Plan, why: str) -> None:
    from qllava.plan.describe import describe  # noqa: PLC0415

    for line in describe(plan, why):
        say(line.name, line.value, line.why, line.flag)


def _count_samples(data: str | None, stage: Stage, images: Path | None, kinds: str | None) -> int | None:
    """Samples of a local data set; None where there is none yet."""
    from qllava.data.formats import load_conversations  # noqa: PLC0415
    from qllava.errors import DataError  # noqa: PLC0415
    from qllava.train.kinds import restrict_to_kinds  # noqa: PLC0415
    from qllava.train.request import find_data  # noqa: PLC0415

    try:
        found = find_data(data, stage=stage, images=images)
    except DataError:
        return None
    conversations = load_conversations(found.path, image_root=found.image_root, strict=False)
    return len(conversations if kinds is None else restrict_to_kinds(found, conversations, kinds)[1])


def _warn_about_data(stage: Stage, samples: int, card: dict[str, object], probe: DeviceProbe) -> None:
    if stage == "align" and samples < ENOUGH_PAIRS:
        note(
            f"{samples:,} pairs align a projector poorly (LLaVA used 558,000; aim for {ENOUGH_PAIRS:,}); more "
            "captions, or `qllava train --stage 2 --align RUN` with an align run made from more, do better"
        )
    if stage == "finetune" and card.get("teacher") == "template" and probe.kind == "cuda":
        for line in PARROT:
            note(line)


def _ask_if_long(plan: Plan, *, yes: bool) -> None:
    if plan.hours is None or plan.hours <= ASK_ABOVE_HOURS or yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"this run takes about {plan.hours:.0f} h; say --yes to start it, or cap it with --max-steps")
    if not typer.confirm(f"This run takes about {plan.hours:.0f} h. Start?", default=False, err=True):
        raise typer.Abort


def _this_command() -> str:
    """The command line as it was typed, without `--new`: repeating it continues the run. It is stored: no secrets."""
    return redact(shlex.join(["qllava", *(argument for argument in sys.argv[1:] if argument != "--new")]))


def _loggers() -> tuple[str, ...]:
    """Stock loggers that the user switched on by environment, as Trainer's own `report_to` names them."""
    import os  # noqa: PLC0415

    chosen = []
    if os.environ.get("WANDB_PROJECT") or os.environ.get("WANDB_API_KEY"):
        chosen.append("wandb")
    if os.environ.get("TENSORBOARD_LOGGING_DIR"):
        chosen.append("tensorboard")
    return tuple(chosen)
