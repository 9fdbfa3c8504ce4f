"""GiB by component for a training stage, and the checkpointing policy and token budget that fit.

The formulas follow what transformers, PEFT and bitsandbytes keep for a backward pass; their constants were checked
against one real 7B NF4 layer: 129 KiB a token without LoRA, 168 with rank 64 and no dropout, 269 with dropout 0.05.
"""

from __future__ import annotations

from dataclasses import dataclass

from qllava.plan.device import GIB
from qllava.plan.work import Job

CONTEXT_GIB = 0.5
MARGIN_GIB = 0.7
# Library handles and the allocator's fragments; to it come dequantised copies of the largest linear.
_FRAGMENTS_GIB = 0.25
_DEQUANTISED_COPIES = 4

# fp32 weights, gradients and AdamW's two moments.
_BYTES_LEARNT = 4 + 4 + 8
_BYTES_BF16 = 2
# 4 bits a weight, one absmax byte per 64 weights, one fp32 scale per 256 of those.
_BYTES_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
# A logit is kept as bf16, as fp32 for the loss, and as its fp32 gradient.
_BYTES_LOGIT = 2 + 4 + 4

# Fastest first: no recomputation, every n-th layer, all layers.
POLICIES: tuple[int | None, ...] = (None, 4, 3, 2, 1)
# A dense attention mask grows with the square of the pack; beyond this, packs gain nothing (dequantisation is < 3 %).
LARGEST_BUDGET = 8192
CPU_BUDGET = 4096
_BUDGET_STEP = 64


@dataclass(frozen=True)
class Fit:
    """A way to train: `checkpoint_every` None keeps all activations, 1 recomputes every layer, n every n-th.

    `token_budget` is the most tokens of one pack, `components_gib` what they and everything else take.
    """

    checkpoint_every: int | None
    token_budget: int
    components_gib: dict[str, float]
    fits: bool


def fit(job: Job, free_gib: float, *, cuda: bool) -> Fit:
    """The fastest policy whose packs hold the longest sample in `free_gib`, and its largest token budget.

    Recomputing costs 1.4x, small packs much less, so the first policy that holds one longest sample is taken. Where
    none does, the answer is the leanest, with `fits` False.
    """
    for policy in POLICIES:
        if _total(job, job.longest, policy, cuda=cuda) > free_gib:
            continue
        budget = max(job.longest, LARGEST_BUDGET if cuda else CPU_BUDGET)
        while budget > job.longest and _total(job, budget, policy, cuda=cuda) > free_gib:
            budget -= _BUDGET_STEP
        budget = max(budget, job.longest)
        return Fit(policy, budget, components_gib(job, budget, policy, cuda=cuda), fits=True)
    return Fit(1, job.longest, components_gib(job, job.longest, 1, cuda=cuda), fits=False)


def components_gib(job: Job, tokens: int, checkpoint_every: int | None, *, cuda: bool) -> dict[str, float]:
    """GiB by component for packs of `tokens` under a policy; the margin, which stays free, is the last."""
    parts = static_gib(job) | pack_gib(job, tokens, checkpoint_every)
    if cuda:
        parts["CUDA context"] = CONTEXT_GIB
    largest = max(inputs * outputs for inputs, outputs in job.sizes.language.linears)
    working = _FRAGMENTS_GIB + _DEQUANTISED_COPIES * largest * _BYTES_BF16 / GIB
    return parts | {"working space": working, "margin": MARGIN_GIB}


def static_gib(job: Job) -> dict[str, float]:
    """GiB that do not depend on the batch, by component."""
    language = job.sizes.language
    quantised = job.quantization == "nf4"
    parts = {
        f"language model ({'NF4' if quantised else 'bf16'})": language.block_parameters
        * (_BYTES_NF4 if quantised else _BYTES_BF16),
        "embeddings and head (bf16)": language.embedding_parameters * _BYTES_BF16,
        "vision tower (bf16)": job.sizes.tower.parameters * _BYTES_BF16,
        "projector (fp32 + AdamW)": job.sizes.projector * _BYTES_LEARNT,
    }
    if job.stage == "finetune":
        parts["LoRA (fp32 + AdamW)"] = language.lora_parameters(job.lora.rank) * _BYTES_LEARNT
    return {name: size / GIB for name, size in parts.items()}


def layer_bytes(job: Job) -> float:
    """Bytes that one layer keeps per token for its backward pass, without checkpointing.

    Two fp32 norms (8 per width), queries, keys, values and the attention's output (bf16), three MLP tensors (bf16);
    with LoRA also the inputs of its A matrices and their products; with dropout a copy and a mask of each input.
    """
    language = job.sizes.language
    width, query, kv, mlp = language.width, language.query_width, language.kv_width, language.mlp
    kept = 8.0 * width + 4 * query + 4 * kv + 6 * mlp
    if job.stage == "finetune":
        kept += 4 * width + 2 * mlp + 14 * job.lora.rank
        if job.lora.dropout > 0:
            kept += 3 * (5 * width + query + mlp)
    return kept


def activation_gib(job: Job, tokens: int, checkpoint_every: int | None) -> float:
    """GiB that the layers keep for a pack of `tokens` under a checkpointing policy."""
    language = job.sizes.language
    full = layer_bytes(job)
    recomputed = 0 if checkpoint_every is None else -(-language.layers // checkpoint_every)
    per_token = (language.layers - recomputed) * full + recomputed * _BYTES_BF16 * language.width
    # While a checkpointed layer runs backward, its recomputed activations and their gradients exist once; without
    # checkpointing, the last layer's gradients do.
    per_token += (2 if recomputed else 1) * full
    return tokens * per_token / GIB


def pack_gib(job: Job, tokens: int, checkpoint_every: int | None) -> dict[str, float]:
    """GiB that one pack of `tokens` takes, by component, with as many pictures as mean samples bring."""
    sizes = job.sizes
    samples = max(1.0, tokens / job.sample_tokens)
    # The tower runs without autograd: one layer's MLP at a time. The projector keeps its input, middle and output.
    patch = 2 * _BYTES_BF16 * sizes.tower.mlp + _BYTES_BF16 * (sizes.tower.width + 3 * sizes.language.width)
    pictures = samples * sizes.image_tokens * patch
    mask = float(tokens) ** 2 * _BYTES_BF16
    supervised = min(tokens, samples * job.text.supervised)
    return {
        "activations": activation_gib(job, tokens, checkpoint_every) + (pictures + mask) / GIB,
        "logits at supervised positions": supervised * sizes.language.vocab * _BYTES_LOGIT / GIB,
    }


def _total(job: Job, tokens: int, policy: int | None, *, cuda: bool) -> float:
    return sum(components_gib(job, tokens, policy, cuda=cuda).values())
