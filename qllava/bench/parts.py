"""Model, encoder and image processor of a benchmark: of random weights, or those of the recipe."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from transformers import BaseImageProcessor, LlavaForConditionalGeneration

from qllava.bench.random_model import random_model, word_tokenizer
from qllava.bench.spec import BenchSpec
from qllava.checkpoint.load import build_encoder
from qllava.data.chat_template import load_chat_template, stage_template
from qllava.data.encode import ChatEncoder
from qllava.data.images import build_image_processor
from qllava.errors import ModelError
from qllava.model.build import assemble
from qllava.model.embedded import resolve_model
from qllava.model.lora import add_lora
from qllava.plan.sizes import model_sizes
from qllava.recipe import Recipe
from qllava.train.parts import Parts

# CLIP's own, in every CLIP recipe's preprocessor_config.json; the numbers do not change the speed.
_MEAN, _STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def build_bench_parts(spec: BenchSpec) -> Parts:
    """Everything that trains, with fresh LoRA in stage 2."""
    recipe = spec.parsed_recipe()
    model: LlavaForConditionalGeneration
    if spec.random_weights:
        encoder, image_processor = _random_encoder(recipe, spec), _image_processor(recipe)
        model = random_model(recipe.model, image_token_id=encoder.image_token_id, device=spec.device, seed=recipe.seed)
    else:
        template = stage_template(recipe.template, recipe.align_template, spec.stage)
        encoder = build_encoder(recipe, template=template)
        image_processor = build_image_processor(resolve_model(recipe.model.vision_tower), recipe.data.image_aspect)
        model = assemble(
            **recipe.model.model_dump(), image_token_id=encoder.image_token_id, device=spec.device, seed=recipe.seed
        )
    if spec.stage == "align":
        return Parts(model, encoder, image_processor, spec.device)
    lora = recipe.lora
    adapted = add_lora(model, rank=lora.rank, alpha=lora.scaling_alpha, dropout=lora.dropout, seed=recipe.seed)
    return Parts(adapted, encoder, image_processor, spec.device)


def _random_encoder(recipe: Recipe, spec: BenchSpec) -> ChatEncoder:
    sizes = model_sizes(recipe.model)
    if sizes is None:
        raise ModelError(f"the dimensions of {recipe.model.language_model} are not known here")
    tokenizer, image_token_id = word_tokenizer()
    template = load_chat_template(stage_template(recipe.template, recipe.align_template, spec.stage))
    return ChatEncoder(tokenizer, template, image_token_id, sizes.image_tokens)


def _image_processor(recipe: Recipe) -> BaseImageProcessor:
    sizes = model_sizes(recipe.model)
    if sizes is None:
        raise ModelError(f"the dimensions of {recipe.model.vision_tower} are not known here")
    side = sizes.tower.image_size
    config = {
        "image_processor_type": "CLIPImageProcessor" if sizes.tower.class_token else "SiglipImageProcessor",
        "size": {"shortest_edge": side} if sizes.tower.class_token else {"height": side, "width": side},
        "crop_size": {"height": side, "width": side},
        "image_mean": _MEAN,
        "image_std": _STD,
        "resample": 3,
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(config), encoding="utf-8")
        return build_image_processor(folder, recipe.data.image_aspect)
