"""The plan of one stage: everything `train --dry-run` prints, worked out without torch and without a download."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass

from qllava.plan.advice import smaller_recipes, ways_to_fit
from qllava.plan.auto import WITHOUT_CARD
from qllava.plan.cards import CardPlan, plan_cards
from qllava.plan.device import GIB, DeviceProbe, require_usable
from qllava.plan.memory import Fit, Optimizer, allocated_gib, fit
from qllava.plan.sizes import hub_cache, model_sizes, recipe_download_gb
from qllava.plan.time import Rate, card_rate, device_rate
from qllava.plan.time import hours as hours_for
from qllava.plan.work import ALONE, SCENE_TEXT, TEXT, Job, Lengths, sample_tflop
from qllava.recipe import Recipe, StageSettings, load_recipe
from qllava.types import Stage

_EMBEDDED = "embedded:"
# Whose rate stands for a card that is asked for by its memory alone.
_USUAL_CARD = "RTX 4090"


@dataclass(frozen=True)
class Plan:
    """What a stage will do on a device. GiB are 2**30 bytes, GB 1e9.

    `checkpoint_every` None keeps all activations, 1 recomputes every layer, n every n-th. `token_budget` is the most
    tokens of one pack. `components_gib` is empty where the model's sizes are `known` neither to us nor on this
    machine. `tokens_a_sample` are those of a mean sample, `packed_tokens` what it adds to a pack that shares pictures,
    `lengths_from` where both come from. `hypothetical` is a card that is not here, asked for with `--vram`. `steps`,
    `share` (of the data that a step cap leaves, 0-1) and `hours` are None where the number of samples, or the device's
    rate, is not known. `cards` are the same stage on cards people have.
    """

    stage: Stage
    recipe: Recipe
    device: str
    device_note: str | None
    hypothetical: bool
    free_gib: float
    known: bool
    fits: bool
    checkpoint_every: int | None
    token_budget: int
    optimizer: Optimizer
    components_gib: dict[str, float]
    image_tokens: int | None
    tokens_a_sample: float | None
    packed_tokens: float | None
    lengths_from: str
    samples: int | None
    steps: int | None
    share: float | None
    tflop_a_sample: float | None
    rate: Rate | None
    hours: float | None
    download_gb: float | None
    disk_free_gb: float
    advice: list[str]
    cards: list[CardPlan]

    @property
    def settings(self) -> StageSettings:
        """The stage's optimisation settings."""
        return self.recipe.stage(self.stage)

    @property
    def total_gib(self) -> float | None:
        """Sum of the components."""
        return sum(self.components_gib.values()) if self.components_gib else None

    @property
    def peak_gib(self) -> float | None:
        """The part of it that torch would report as allocated at its peak."""
        return allocated_gib(self.components_gib) if self.components_gib else None


def make_plan(
    recipe: Recipe,
    stage: Stage,
    probe: DeviceProbe,
    samples: int | None = None,
    vram_gib: float | None = None,
    *,
    lengths: Lengths | None = None,
    tflops: float | None = None,
) -> Plan:
    """Plan one stage of a recipe on a device.

    Args:
        recipe: the resolved recipe.
        stage: `align` or `finetune`.
        probe: the device; with `vram_gib` and no card, a card of that size is planned for.
        samples: samples of the data set, if known.
        vram_gib: the cap of `--vram`.
        lengths: of the data's samples; typical ones of the stage, without shared pictures, unless given.
        tflops: the rate (1e12 a second) to plan with, instead of the table's.

    Raises:
        DeviceError: the card is broken, or has no bfloat16.
    """
    require_usable(probe)
    hypothetical = probe.kind == "cpu" and vram_gib is not None
    cuda = probe.kind == "cuda" or hypothetical
    free = _free_gib(probe, vram_gib)
    job = _job(recipe, stage, lengths)
    chosen = Fit(1, recipe.data.max_length, {}, fits=True) if job is None else fit(job, free, cuda=cuda)
    settings = recipe.stage(stage)
    steps, share = _steps(settings, samples)
    seen = _seen(settings, samples, steps)
    tflop = None if job is None else sample_tflop(job, chosen.checkpoint_every)
    rate = card_rate(_USUAL_CARD) if hypothetical else device_rate(probe)
    if tflops is not None:
        rate = Rate(tflops, f"--tflops {tflops:g}")
    return Plan(
        stage=stage,
        recipe=recipe,
        device=f"a card with {vram_gib:g} GB" if hypothetical else probe.name,
        device_note="--vram; there is no NVIDIA card here" if hypothetical else probe.note,
        hypothetical=hypothetical,
        free_gib=free,
        known=job is not None,
        fits=chosen.fits,
        checkpoint_every=chosen.checkpoint_every,
        token_budget=chosen.token_budget,
        optimizer=chosen.optimizer,
        components_gib=chosen.components_gib,
        image_tokens=None if job is None else job.sizes.image_tokens,
        tokens_a_sample=None if job is None else job.sample_tokens,
        packed_tokens=None if job is None else job.packed_tokens,
        lengths_from="typical for this stage" if lengths is None else lengths.how,
        samples=samples,
        steps=steps,
        share=share,
        tflop_a_sample=tflop,
        rate=rate,
        hours=None if seen is None or tflop is None or rate is None else hours_for(seen, tflop, rate),
        download_gb=recipe_download_gb(recipe.model),
        disk_free_gb=_disk_free_gb(),
        advice=_advice(recipe, job, probe, free, chosen, cuda=cuda),
        cards=[] if job is None else plan_cards(job, seen),
    )


def _job(recipe: Recipe, stage: Stage, lengths: Lengths | None = None) -> Job | None:
    sizes = model_sizes(recipe.model)
    if sizes is None:
        return None
    typical = SCENE_TEXT if recipe.model.language_model.startswith(_EMBEDDED) else TEXT
    return Job(
        sizes=sizes,
        stage=stage,
        lora=recipe.lora,
        quantization=recipe.model.quantization,
        text=typical[stage] if lengths is None else lengths.text,
        longest=recipe.data.max_length,
        sharing=ALONE if lengths is None else lengths.sharing,
    )


def _advice(
    recipe: Recipe, job: Job | None, probe: DeviceProbe, free_gib: float, chosen: Fit, *, cuda: bool
) -> list[str]:
    """What to know, and where the stage does not fit, what to change."""
    if job is None:
        names = f"{recipe.model.language_model} + {recipe.model.vision_tower}"
        return [f"the sizes of {names} are known only after the download; planned for the least memory"]
    advice = []
    if not cuda and not recipe.model.language_model.startswith(_EMBEDDED):
        advice.append(f"no NVIDIA card here: --vram 24 plans for one, --recipe {WITHOUT_CARD} trains on this machine")
    if chosen.fits:
        return advice
    advice += ways_to_fit(job, probe, free_gib, cuda=cuda)
    for name in smaller_recipes(recipe.name):
        other = _job(load_recipe(name), job.stage)
        if other is not None and fit(other, free_gib, cuda=cuda).fits:
            advice.append(f"--recipe {name}")
            break
    return advice or ["nothing fits: use a larger card"]


def _seen(settings: StageSettings, samples: int | None, steps: int | None) -> int | None:
    """Samples of all steps."""
    if steps is None:
        return None
    seen = steps * settings.batch_size
    return seen if samples is None else min(seen, math.ceil(samples * settings.epochs))


def _steps(settings: StageSettings, samples: int | None) -> tuple[int | None, float | None]:
    """Optimizer steps, and the share of the data they see; a step cap shortens, never lengthens."""
    if samples is None:
        return settings.max_steps, None
    full = math.ceil(samples * settings.epochs / settings.batch_size)
    steps = full if settings.max_steps is None else min(full, settings.max_steps)
    return steps, min(1.0, steps * settings.batch_size / max(1, samples))


def _free_gib(probe: DeviceProbe, vram_gib: float | None) -> float:
    if probe.kind == "cpu":
        return probe.free_bytes / GIB if vram_gib is None else vram_gib
    free = probe.free_bytes / GIB
    return free if vram_gib is None else min(free, vram_gib)


def _disk_free_gb() -> float:
    folder = hub_cache()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 1e9
