"""What to change when a stage does not fit, cheapest first; every suggestion has been checked to fit."""

from __future__ import annotations

from dataclasses import replace

from qllava.plan.auto import BY_CARD_GB, WITHOUT_CARD
from qllava.plan.device import GIB, DeviceProbe
from qllava.plan.memory import fit
from qllava.plan.work import Job

# Room for a question and an answer beside the picture.
_LEAST_TEXT = 128


def ways_to_fit(job: Job, probe: DeviceProbe, free_gib: float, *, cuda: bool) -> list[str]:
    """Changes to settings or surroundings, each of which alone makes the stage fit in `free_gib`."""
    ways = []
    total = probe.total_bytes / GIB
    held = total - probe.free_bytes / GIB
    if probe.kind == "cuda" and held > 1 and fit(job, total, cuda=cuda).fits:
        ways.append(f"other programs hold {held:.1f} GiB of the card: close them (nvidia-smi names them)")
    if job.quantization == "none" and fit(replace(job, quantization="nf4"), free_gib, cuda=cuda).fits:
        ways.append("--set model.quantization=nf4")
    if job.stage == "finetune" and job.lora.dropout > 0:
        without = job.lora.model_copy(update={"dropout": 0.0})
        if fit(replace(job, lora=without), free_gib, cuda=cuda).fits:
            ways.append("--set lora.dropout=0 (a third less activation memory)")
    lengths = (n for n in (1536, 1024, 768) if job.sizes.image_tokens + _LEAST_TEXT <= n < job.longest)
    length = next((n for n in lengths if fit(replace(job, longest=n), free_gib, cuda=cuda).fits), None)
    if length is not None:
        ways.append(f"--set data.max_length={length} (longer samples are cut at a turn)")
    ranks = (n for n in (32, 16, 8) if job.stage == "finetune" and n < job.lora.rank)
    rank = next((n for n in ranks if fit(_with_rank(job, n), free_gib, cuda=cuda).fits), None)
    if rank is not None:
        ways.append(f"--lora-r {rank}")
    return ways


def smaller_recipes(name: str) -> list[str]:
    """The recipes of `auto` below this one, largest first; all of them for a recipe that `auto` never takes."""
    names = [recipe for _, recipe in BY_CARD_GB] + [WITHOUT_CARD]
    return names[names.index(name) + 1 :] if name in names else names


def _with_rank(job: Job, rank: int) -> Job:
    return replace(job, lora=job.lora.model_copy(update={"rank": rank, "alpha": None}))
