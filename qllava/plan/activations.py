"""Bytes that one pack takes for its backward pass: per layer, per pack, by component.

The formulas list what transformers, PEFT and bitsandbytes save for a backward pass, tensor by tensor; a test counts
the saved tensors of a real NF4 model and compares (`tests/plan/test_activations.py`). They agree with one real 7B layer
measured before: 129 KiB a token without LoRA, 168 with rank 64.
"""

from __future__ import annotations

from qllava.plan.arithmetic import CUDA, Arithmetic
from qllava.plan.device import GIB
from qllava.plan.work import Job

# Logits that exist at once (`model/head_loss.py`): 2**23 are 262 positions of a vocabulary of 32,000.
LOGITS_AT_ONCE = 2**23
# fp32: log-probabilities kept by the loss, then their gradient and the logits' own, all three at once.
_BYTES_LOGIT = 12
_BYTES_PIXELS = 4 + 1


def layer_bytes(job: Job, arithmetic: Arithmetic = CUDA) -> float:
    """Bytes that one layer keeps per token for its backward pass, without checkpointing and without its mask.

    Two norms (their input in fp32, and its scale), queries, keys and values (repeated to all heads, since a masked
    attention takes no grouped ones), the attention's output and log-sums, three MLP tensors. With LoRA also the inputs
    of its A matrices (shared by those that read the same tensor) and their products; with dropout instead each
    matrix's own dropped input, and the mask.
    """
    language, size = job.sizes.language, arithmetic.element
    width, query, mlp = language.width, language.query_width, language.mlp
    kept = 8.0 * (width + 1) + 4 * size * query + 4 * language.heads + 3 * size * mlp
    if job.stage == "finetune":
        kept += 7 * size * job.lora.rank
        own_inputs = 5 * width + query + mlp
        if job.lora.dropout > 0:
            kept += (size + arithmetic.dropout_mask) * own_inputs
        elif arithmetic.recast:
            kept += size * own_inputs
        else:
            # The output projection's input is the attention's output, which is kept already.
            kept += size * (2 * width + mlp)
    return kept


def mask_bytes(tokens: int, arithmetic: Arithmetic = CUDA) -> float:
    """Bytes of the attention mask of a pack: one in numbers, which all layers share, and the bools it is made from."""
    return float(tokens) ** 2 * (arithmetic.element + 1)


def branch_bytes(job: Job, tokens: int, checkpoint_every: int | None, arithmetic: Arithmetic) -> float:
    """Bytes of prefixes' keys and values that branches keep, each its own, where attention runs by segments."""
    if job.sharing.samples_a_picture <= 1:
        return 0.0
    whole, _ = _layers(job, checkpoint_every)
    branches = tokens / job.packed_tokens
    prefix = job.sizes.image_tokens + job.sharing.prefix
    return branches * prefix * 2 * arithmetic.element * job.sizes.language.query_width * max(1, whole)


def activation_gib(job: Job, tokens: int, checkpoint_every: int | None, arithmetic: Arithmetic = CUDA) -> float:
    """GiB that the layers keep for a pack of `tokens` under a checkpointing policy, masks not counted."""
    whole, recomputed = _layers(job, checkpoint_every)
    per_token = whole * layer_bytes(job, arithmetic) + recomputed * arithmetic.element * job.sizes.language.width
    return tokens * per_token / GIB


def pack_gib(job: Job, tokens: int, checkpoint_every: int | None, arithmetic: Arithmetic = CUDA) -> dict[str, float]:
    """GiB that one pack of `tokens` takes, by component, with as many pictures and answers as mean samples bring."""
    language, tower, size = job.sizes.language, job.sizes.tower, arithmetic.element
    samples = max(1.0, tokens / job.packed_tokens)
    pictures = samples / job.sharing.samples_a_picture
    # The projector keeps its input, middle and output; the tower runs without autograd.
    patch = size * (tower.width + 3 * language.width)
    pixels = 3 * tower.image_size**2 * _BYTES_PIXELS
    # Embedded input, last hidden states, and the last norm's fp32 copy.
    edges = tokens * language.width * (2 * size + 4)
    supervised = min(float(tokens), samples * job.text.supervised)
    logits = min(supervised * language.vocab, max(language.vocab, LOGITS_AT_ONCE)) * _BYTES_LOGIT
    # Their states and the gradient of these, which is there before the layers' backward begins.
    states = supervised * 2 * size * language.width
    # While a checkpointed layer runs backward, its recomputed activations and their gradients exist once; without
    # checkpointing, the last layer's gradients do. By then the logits are gone.
    _, recomputed = _layers(job, checkpoint_every)
    at_work = (2 if recomputed else 1) * tokens * layer_bytes(job, arithmetic)
    kept = activation_gib(job, tokens, checkpoint_every, arithmetic) * GIB
    parts = {
        "activations": kept + edges + states + pictures * (job.sizes.image_tokens * patch + pixels),
        "logits that exist at once": logits,
        "one layer's backward, beyond the logits": max(0.0, at_work - logits),
    }
    # A processor's attention runs by segments (`model/segments.py`): no mask of the whole pack.
    if arithmetic is CUDA:
        parts["attention mask"] = mask_bytes(tokens, arithmetic)
    else:
        parts["prefixes kept by their branches"] = branch_bytes(job, tokens, checkpoint_every, arithmetic)
    return {name: amount / GIB for name, amount in parts.items()}


def _layers(job: Job, checkpoint_every: int | None) -> tuple[int, int]:
    """How many layers keep everything, and how many keep their input alone."""
    layers = job.sizes.language.layers
    recomputed = 0 if checkpoint_every is None else -(-layers // checkpoint_every)
    return layers - recomputed, recomputed
