"""Real models, small enough to make in a test: a tokenizer, a Llama, a CLIP tower, and a finished run of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from qllava.checkpoint.load import LoadedRun, build_encoder, load_run
from qllava.checkpoint.manifest import Manifest, read_run
from qllava.checkpoint.weights import ADAPTER_FILE, PROJECTOR_FILE, save_trained
from qllava.files import sha256
from qllava.model.build import assemble
from qllava.model.lora import add_lora
from qllava.recipe import Recipe, parse_recipe

CORPUS = [
    "What color is the circle? red",
    "How many objects are there? two",
    "system user assistant You are a helpful assistant.",
    "Is there a blue square on the left? yes no",
    "a curious user asks and the assistant answers politely, in words",
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>", "</s>"]
CONTEXT = 256


@dataclass(frozen=True)
class Answering:
    """The same parts as a `LoadedRun`, to be changed freely."""

    model: object
    encoder: object
    image_processor: object
    device: str = "cpu"


def save_language_model(folder: Path) -> None:
    """A two-layer Llama with a byte-level tokenizer; its last vocabulary rows are no token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<pad>")  # noqa: S106
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        # Wide enough for answers to depend on every token of the prompt.
        initializer_range=0.25,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def save_tower(folder: Path) -> None:
    """A three-layer CLIP tower: 32 pixels, 16 patches."""
    torch.manual_seed(1)
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        initializer_range=0.3,
    )
    CLIPVisionModel(config).save_pretrained(folder)
    square = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square).save_pretrained(folder)


def tiny_recipe(folder: Path, *, quantization: str = "none", template: str = "chatml") -> Recipe:
    """A recipe over parts saved under `folder`, which are made on the first call."""
    if not (folder / "language" / "config.json").is_file():
        save_language_model(folder / "language")
        save_tower(folder / "tower")
    model = {
        "language_model": str(folder / "language"),
        "vision_tower": str(folder / "tower"),
        "quantization": quantization,
    }
    values = {
        "name": "tiny",
        "model": model,
        "template": template,
        "data": {"image_aspect": "squash"},
        "lora": {"rank": 4},
    }
    return parse_recipe(values, origin="test")


def write_run(folder: Path, recipe: Recipe, *, status: str = "finished") -> Path:
    """A finetune run folder as training leaves it, with an adapter that matters."""
    folder.mkdir(parents=True)
    encoder = build_encoder(recipe, template=recipe.template)
    model = assemble(**recipe.model.model_dump(), image_token_id=encoder.image_token_id, device="cpu", seed=recipe.seed)
    wrapped = add_lora(model, rank=recipe.lora.rank, alpha=recipe.lora.scaling_alpha, dropout=0.0, seed=recipe.seed)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.2)
            if "multi_modal_projector" in name:
                parameter.normal_(std=0.3)
    save_trained(wrapped, folder)
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    Manifest(
        stage="finetune",
        status=status,  # type: ignore[arg-type]
        recipe="0",
        data={"path": "data/instruct.json", "sha256": "0", "samples": 1},
        model={},
        steps=1,
        total_steps=2,
        command="qllava train --stage 2",
        files={name: sha256(folder / name) for name in (PROJECTOR_FILE, ADAPTER_FILE)},
    ).write(folder)
    return folder


def load_tiny(folder: Path, *, quantization: str = "none", template: str = "chatml") -> LoadedRun:
    """Make a run under `folder` and load it."""
    run = folder / "runs" / "finetune-001"
    if not run.is_dir():
        write_run(run, tiny_recipe(folder, quantization=quantization, template=template))
    return load_run(read_run(run), device="cpu")


def picture(red: int, green: int = 90, blue: int = 30) -> Image.Image:
    """A picture that differs from others by more than rounding."""
    image = Image.linear_gradient("L").resize((48, 40))
    return Image.merge("RGB", [image.point(lambda v, c=c: (v * c) // 255 + c // 2) for c in (red % 256, green, blue)])
