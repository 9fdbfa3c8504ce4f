"""GiB by component for a training stage, and the checkpointing policy, optimizer and token budget that fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qllava.plan.activations import pack_gib
from qllava.plan.arithmetic import Arithmetic, arithmetic
from qllava.plan.device import GIB
from qllava.plan.work import Job

Optimizer = Literal["adamw", "paged_adamw_8bit"]

CONTEXT_GIB = 0.5
MARGIN_GIB = 0.7
# Library handles and the allocator's fragments.
_FRAGMENTS_GIB = 0.25
_DEQUANTISED_COPIES = 4
CONTEXT, FRAGMENTS, MARGIN = "CUDA context", "fragments and handles", "margin"

_BYTES_FP32 = 4
# 4 bits a weight, one absmax byte per 64 weights, one fp32 scale per 256 of those.
_BYTES_NF4 = 0.5
_BYTES_ABSMAX = 1 / 64 + 4 / (64 * 256)
# AdamW's two moments: fp32; or one byte each, with one fp32 scale per 256 (bitsandbytes' block-wise optimizer).
_BYTES_STATES: dict[Optimizer, float] = {"adamw": 8, "paged_adamw_8bit": 2 + 2 * 4 / 256}

# Fastest first: no recomputation, every n-th layer, all layers.
POLICIES: tuple[int | None, ...] = (None, 4, 3, 2, 1)
# Dequantisation costs the same for every pack, so longer ones are cheaper a token; a dense attention costs a token as
# much as its pack is long. Per token of a 7B on a 4090 (2 x 16 ms a pack; 1.8 MFLOP a token and token): 31 + 29 us at
# 1024, 16 + 57 at 2048, 4 + 229 at 8192, beside 316 for the linears. On a processor attention runs by segments and
# dequantisation is 3 % of a step: packs of about one picture do, and keep the memory small.
LARGEST_BUDGET = 2048
CPU_BUDGET = 512
_BUDGET_STEP = 64


@dataclass(frozen=True)
class Fit:
    """A way to train: `checkpoint_every` None keeps all activations, 1 recomputes every layer, n every n-th.

    `token_budget` is the most tokens of one pack, `components_gib` what they and everything else take. `optimizer` is
    `adamw` unless only 8-bit states fit; the projector's states are fp32 either way.
    """

    checkpoint_every: int | None
    token_budget: int
    components_gib: dict[str, float]
    fits: bool
    optimizer: Optimizer = "adamw"


def fit(job: Job, free_gib: float, *, cuda: bool) -> Fit:
    """The fastest policy whose packs hold the longest sample in `free_gib`, and its largest useful token budget.

    Recomputing costs 1.4x, small packs much less, so the first policy that holds one longest sample is taken; 8-bit
    optimizer states, which are rounded, only where no policy fits without. Where nothing does, the answer is the
    leanest, with `fits` False.
    """
    # 8-bit states exist on CUDA, and only LoRA's are quantised.
    lean: tuple[Optimizer, ...] = ("adamw", "paged_adamw_8bit") if cuda and job.stage == "finetune" else ("adamw",)
    for optimizer in lean:
        for policy in POLICIES:
            if _total(job, job.longest, policy, optimizer, cuda=cuda) > free_gib:
                continue
            budget = max(job.longest, _useful_budget(job, cuda=cuda))
            while budget > job.longest and _total(job, budget, policy, optimizer, cuda=cuda) > free_gib:
                budget -= _BUDGET_STEP
            budget = max(budget, job.longest)
            parts = components_gib(job, budget, policy, cuda=cuda, optimizer=optimizer)
            return Fit(policy, budget, parts, fits=True, optimizer=optimizer)
    parts = components_gib(job, job.longest, 1, cuda=cuda, optimizer=lean[-1])
    return Fit(1, job.longest, parts, fits=False, optimizer=lean[-1])


def components_gib(
    job: Job, tokens: int, checkpoint_every: int | None, *, cuda: bool, optimizer: Optimizer = "adamw"
) -> dict[str, float]:
    """GiB by component for packs of `tokens` under a policy; the margin, which stays free, is the last."""
    compute = arithmetic(cuda=cuda)
    parts = static_gib(job, compute, optimizer) | pack_gib(job, tokens, checkpoint_every, compute)
    if job.quantization == "nf4":
        largest = max(inputs * outputs for inputs, outputs in job.sizes.language.linears)
        parts["dequantised weights at work"] = _DEQUANTISED_COPIES * largest * compute.element / GIB
    if cuda:
        parts[CONTEXT] = CONTEXT_GIB
    return parts | {FRAGMENTS: _FRAGMENTS_GIB, MARGIN: MARGIN_GIB}


def allocated_gib(components: dict[str, float]) -> float:
    """What torch itself would report as its peak: everything but context, fragments and margin."""
    return sum(gib for name, gib in components.items() if name not in {CONTEXT, FRAGMENTS, MARGIN})


def static_gib(job: Job, compute: Arithmetic, optimizer: Optimizer = "adamw") -> dict[str, float]:
    """GiB that do not depend on the batch, by component."""
    language, sizes = job.sizes.language, job.sizes
    parts: dict[str, float] = {}
    if job.quantization == "nf4":
        parts["language model (NF4)"] = language.block_parameters * _BYTES_NF4
        parts["absmax of the NF4 blocks"] = language.block_parameters * _BYTES_ABSMAX
    else:
        parts[f"language model ({compute.name})"] = language.block_parameters * compute.element
    table = language.vocab * language.width * compute.element
    if language.tied:
        parts[f"embeddings, also the head ({compute.name})"] = table
    else:
        parts[f"embeddings ({compute.name})"] = table
        parts[f"head ({compute.name})"] = table
    parts[f"vision tower ({compute.name})"] = sizes.tower.parameters * compute.element
    parts["projector (fp32)"] = (sizes.projector + sizes.projector_frozen) * _BYTES_FP32
    projector = sizes.projector
    lora = language.lora_parameters(job.lora.rank) if job.stage == "finetune" else 0
    if lora:
        parts["LoRA (fp32)"] = lora * _BYTES_FP32
    if compute.name == "bf16":
        # Autocast casts fp32 masters once a forward, and the graph holds the copies until its backward.
        parts["bf16 copies of what learns"] = (projector + lora) * compute.element
    parts["gradients (fp32)"] = (projector + lora) * _BYTES_FP32
    states = projector * _BYTES_STATES["adamw"] + lora * _BYTES_STATES[optimizer]
    parts[f"optimizer states ({'fp32' if optimizer == 'adamw' else '8 bit'})"] = states
    return {name: size / GIB for name, size in parts.items()}


def _useful_budget(job: Job, *, cuda: bool) -> int:
    """Beyond this, packs gain nothing; a picture and what is said about it must fit, or its samples share nothing."""
    return LARGEST_BUDGET if cuda else max(CPU_BUDGET, 4 * job.sizes.image_tokens)


def _total(job: Job, tokens: int, policy: int | None, optimizer: Optimizer, *, cuda: bool) -> float:
    return sum(components_gib(job, tokens, policy, cuda=cuda, optimizer=optimizer).values())
