"""Tiny models and data made in the tests: real classes, random weights, seconds to build."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def save_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with ChatML's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s*\n|\S+|\s+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    words = ["user\n assistant\n", "What color is the circle?", "a red circle and a blue square", "yes no left right"]
    tokenizer.train_from_iterator(words * 4, trainer)
    pad, start, end = SPECIALS
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=pad, bos_token=start)
    fast.save_pretrained(folder)
    return fast


def save_language_model(folder: Path, family: str = "llama", *, tied: bool = True, window: int | None = None) -> Path:
    """A random causal language model with its tokenizer; `family` is llama, qwen2 or mistral.

    `window` is the sliding window: mistral's 4096 unless given; qwen2's second layer has one if it is given.
    """
    tokenizer = save_tokenizer(folder)
    shape = {**SHAPE, "vocab_size": len(tokenizer), "tie_word_embeddings": tied, "initializer_range": 0.1}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model: torch.nn.Module
        if family == "llama":
            model = LlamaForCausalLM(LlamaConfig(**shape))
        elif family == "qwen2":
            sliding = {"use_sliding_window": True, "sliding_window": window, "max_window_layers": 1} if window else {}
            model = Qwen2ForCausalLM(Qwen2Config(**shape, **sliding))
        else:
            model = MistralForCausalLM(MistralConfig(**shape, sliding_window=window or 4096))
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def save_tower(folder: Path, family: str = "clip", *, image_size: int = 32, patch_size: int = 8) -> Path:
    """A random CLIP or SigLIP vision tower with its image processor: 4 x 4 patches unless told."""
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": image_size,
        "patch_size": patch_size,
    }
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model: torch.nn.Module
        if family == "clip":
            model = CLIPVisionModel(CLIPVisionConfig(**shape, initializer_range=0.5))
        else:
            model = SiglipVisionModel(SiglipVisionConfig(**shape))
    model.save_pretrained(folder)
    prepare = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": image_size},
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "resample": 3,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(prepare))
    return folder
