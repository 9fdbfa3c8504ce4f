"""A model of a recipe's true dimensions with random weights: nothing is downloaded, speed and memory are the same.

The language model is quantised layer by layer, so that a 13B never stands on the card in 16 bit.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.quantizers.auto import AutoHfQuantizer

from qllava.bench.data import WORDS
from qllava.errors import ModelError
from qllava.model.build import fresh_projector
from qllava.model.precision import compute_dtype
from qllava.model.quantize import audit_quantization, keep_autograd, nf4_config
from qllava.model.tokenizer import IMAGE_TOKEN
from qllava.plan.sizes import LanguageSizes, TowerSizes, model_sizes
from qllava.recipe import ModelSettings

# What the shipped templates end turns with.
_SPECIALS = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>"]
_SPECIALS += ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
_TEMPLATES = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. You are a helpful assistant. system\nuser\n"
    "assistant\n USER: ASSISTANT:"
)
_CONTEXT = 8192


def random_model(model: ModelSettings, *, image_token_id: int, device: str, seed: int) -> LlavaForConditionalGeneration:
    """The model `assemble` would build, with weights from `seed`.

    Raises:
        ModelError: the recipe's dimensions are not known here.
    """
    sizes = model_sizes(model)
    if sizes is None:
        raise ModelError(f"the dimensions of {model.language_model} or {model.vision_tower} are not known here")
    if image_token_id >= sizes.language.vocab:
        raise ModelError(f"a vocabulary of {sizes.language.vocab} is too small for the benchmark's tokenizer; use 1024")
    dtype = compute_dtype(device)
    text = _text_config(model.language_model, sizes.language)
    layers, text.num_hidden_layers = text.num_hidden_layers, 1
    config = LlavaConfig(
        text_config=text,
        vision_config=_vision_config(sizes.tower),
        image_token_index=image_token_id,
        projector_hidden_act="linear" if model.projector == "linear" else "gelu",
        vision_feature_layer=model.feature_layer,
        vision_feature_select_strategy=model.patches,
        image_seq_length=sizes.image_tokens,
        tie_word_embeddings=sizes.language.tied,
    )
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        llava: LlavaForConditionalGeneration = LlavaForConditionalGeneration._from_config(
            config, dtype=dtype, attn_implementation="sdpa"
        )
        language: Any = llava.model.language_model
        kind = type(language.layers[0])
        inner = language.config
        inner.num_hidden_layers = layers
        if getattr(inner, "layer_types", None):
            inner.layer_types = [inner.layer_types[0]] * layers
        language.layers = nn.ModuleList()
        for index in range(layers):
            layer = kind(inner, index)
            _initialise(layer)
            layer.to(dtype)
            if model.quantization == "nf4":
                _quantise(layer, dtype, device)
            language.layers.append(layer)
    llava.model.multi_modal_projector = fresh_projector(llava.config, kind=model.projector, seed=seed).to(device)
    llava.requires_grad_(False)
    if model.quantization == "nf4":
        _mark_quantised(llava, dtype)
        keep_autograd(llava)
    audit_quantization(llava, quantized=model.quantization == "nf4", compute=dtype)
    return llava


def word_tokenizer() -> tuple[PreTrainedTokenizerFast, int]:
    """A tokenizer for the synthetic data, a token a word, with every special token of the shipped templates."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=_SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator([f"{' '.join(WORDS)} {_TEMPLATES}"] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [*_SPECIALS[3:], IMAGE_TOKEN]})
    return tokenizer, int(cast(int, tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)))


def _text_config(name: str, sizes: LanguageSizes) -> Any:
    kind: Any = Qwen2Config if "qwen2" in name.lower() else LlamaConfig
    return kind(
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        vocab_size=sizes.vocab,
        tie_word_embeddings=sizes.tied,
        max_position_embeddings=_CONTEXT,
    )


def _vision_config(tower: TowerSizes) -> Any:
    kind: Any = CLIPVisionConfig if tower.class_token else SiglipVisionConfig
    return kind(
        hidden_size=tower.width,
        intermediate_size=tower.mlp,
        num_hidden_layers=tower.layers,
        num_attention_heads=tower.width // 64 if tower.width % 64 == 0 else 16,
        image_size=tower.image_size,
        patch_size=tower.patch_size,
    )


@torch.no_grad()
def _initialise(layer: nn.Module) -> None:
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=0.02)
            if module.bias is not None:
                module.bias.zero_()


def _quantise(layer: nn.Module, dtype: torch.dtype, device: str) -> None:
    """Put NF4 linears in the place of a layer's own, one at a time."""
    linears = [(name, module) for name, module in layer.named_modules() if isinstance(module, nn.Linear)]
    for name, linear in linears:
        packed = Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=dtype,
            compress_statistics=True,
            quant_type="nf4",
            device="meta",
        )
        packed.weight = Params4bit(
            linear.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4", module=packed
        ).to(device)
        packed.bias = linear.bias
        parent, _, child = name.rpartition(".")
        setattr(layer.get_submodule(parent), child, packed)


def _mark_quantised(model: Any, dtype: torch.dtype) -> None:
    """What `from_pretrained` sets on a quantised model, and Trainer and PEFT look for."""
    config = nf4_config(dtype)
    model.config.quantization_config = config
    model.hf_quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
    model.is_quantized = model.is_loaded_in_4bit = True
    model.quantization_method = config.quant_method
