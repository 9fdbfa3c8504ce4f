"""What a run trains with, put together once: the frozen model and what turns samples into its input."""

from __future__ import annotations

from dataclasses import dataclass

from peft import PeftModel
from transformers import BaseImageProcessor, LlavaForConditionalGeneration

from qllava.checkpoint.weights import load_projector
from qllava.data.encode import ChatEncoder
from qllava.model.build import assemble
from qllava.model.lora import add_lora
from qllava.train.card import cap_card
from qllava.train.request import TrainRequest


@dataclass(frozen=True)
class Parts:
    """`model` is wrapped by PEFT in stage 2; `encoder` speaks the stage's template; `device` is `cuda` or `cpu`."""

    model: PeftModel | LlavaForConditionalGeneration
    encoder: ChatEncoder
    image_processor: BaseImageProcessor
    device: str


def build_parts(request: TrainRequest, encoder: ChatEncoder, image_processor: BaseImageProcessor) -> Parts:
    """The frozen model of the stage: a fresh projector in stage 1; the aligned one and fresh LoRA in stage 2."""
    recipe = request.recipe
    device = "cuda" if request.probe.kind == "cuda" else "cpu"
    if device == "cuda" and request.vram_gib is not None:
        cap_card(request.vram_gib)
    model = assemble(
        **recipe.model.model_dump(), image_token_id=encoder.image_token_id, device=device, seed=recipe.seed
    )
    if request.source is None:
        return Parts(model, encoder, image_processor, device)
    load_projector(model, request.source.folder)
    lora = recipe.lora
    adapted = add_lora(model, rank=lora.rank, alpha=lora.scaling_alpha, dropout=lora.dropout, seed=recipe.seed)
    return Parts(adapted, encoder, image_processor, device)
