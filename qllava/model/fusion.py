"""Elementwise fusion on a card: the decoder layers compiled one by one.

PEFT adds each linear's two products, transformers writes RMSNorm and SwiGLU as half a dozen kernels; compiled, they are
one kernel each between the matrix products. One layer is compiled and all share its code (they are alike), lengths are
dynamic, so that packs of any size use it. Results differ by bf16 rounding: fused steps round once where separate
kernels round each time. On a processor there is nothing to win: it is left off there.
"""

from __future__ import annotations

from transformers import LlavaForConditionalGeneration


def fuse_layers(model: LlavaForConditionalGeneration, *, backend: str = "inductor") -> None:
    """Compile every decoder layer in place; names of weights, hooks and checkpointing stay as they are.

    Args:
        model: assembled, its adapter already on.
        backend: torch.compile's; `aot_eager` traces without compiling, for tests.
    """
    for layer in model.model.language_model.layers:
        layer.compile(backend=backend, dynamic=True)


def unfuse_layers(model: LlavaForConditionalGeneration) -> None:
    """Run the layers as they were."""
    for layer in model.model.language_model.layers:
        layer._compiled_call_impl = None
