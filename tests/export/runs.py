"""Finished tiny runs of every shape that can be exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from qllava.checkpoint.manifest import Run, read_run
from qllava.recipe import parse_recipe
from tests.infer.tiny_run import write_run
from tests.tiny import save_language_model, save_tower


def make_run(
    folder: Path,
    *,
    family: str = "llama",
    tower: str = "clip",
    projector: str = "mlp2x_gelu",
    quantization: str = "nf4",
    tied: bool = False,
    aspect: str = "squash",
    data: bool = True,
    splits: str | None = None,
) -> Run:
    """A finetune run over random models, its adapter and projector far from nothing.

    `splits` gives the tokenizer the splitting rules of a family that llama.cpp knows: gpt-2 or qwen2.
    """
    save_language_model(folder / "language", family, tied=tied)
    if splits is not None:
        _split_like(folder / "language" / "tokenizer.json", splits)
    save_tower(folder / "tower", tower)
    values: dict[str, Any] = {
        "name": "tiny",
        "model": {
            "language_model": str(folder / "language"),
            "vision_tower": str(folder / "tower"),
            "projector": projector,
            "patches": "default" if tower == "clip" else "full",
            "quantization": quantization,
        },
        "template": "chatml",
        "data": {"image_aspect": aspect},
        "lora": {"rank": 4},
    }
    write_run(folder / "runs" / "finetune-001", parse_recipe(values, origin="test"))
    run = read_run(folder / "runs" / "finetune-001")
    if not data:
        return run
    pictures = folder / "pictures"
    pictures.mkdir()
    with (folder / "heldout.jsonl").open("w", encoding="utf-8") as file:
        for index in range(5):
            Image.linear_gradient("L").rotate(40 * index).resize((50, 40)).convert("RGB").save(
                pictures / f"{index}.png"
            )
            row = {"id": str(index), "image": f"{index}.png", "question": "What color?", "answers": ["a red circle"]}
            file.write(json.dumps(row) + "\n")
    where = {"path": str(folder / "instruct.json"), "image_root": str(pictures), "sha256": "0", "samples": 5}
    run.manifest.with_changes(data=where).write(run.folder)
    return read_run(run.folder)


QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split_like(path: Path, family: str) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    whole = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": family == "gpt-2"}
    split = {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": False}
    steps = [whole] if family == "gpt-2" else [split, whole]
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    path.write_text(json.dumps(content), encoding="utf-8")


def speak_in_words(folder: Path) -> None:
    """Silence half characters and control tokens in a random model: each library prints those in its own way."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    head = weights["lm_head.weight"]
    for index in range(len(head)):
        said = tokenizer.decode([index])
        if index in tokenizer.all_special_ids or not said.isascii() or not said.isprintable():
            head[index] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
