"""Folders that stock transformers loads: the merged 16-bit model, and the run's own 4-bit codes beside its adapter."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from transformers import BitsAndBytesConfig, GenerationConfig, LlavaConfig, LlavaForConditionalGeneration

from qllava.checkpoint.load import LoadedRun
from qllava.checkpoint.published import ADAPTER_FOLDER
from qllava.checkpoint.weights import llava_of
from qllava.data.chat_template import load_chat_template
from qllava.export.merge import Base, dequantised, merged_tensors
from qllava.export.names import published_name
from qllava.export.shards import SHARD_BYTES, write_shards
from qllava.infer.vocabulary import stop_ids, suppressed_ids
from qllava.model.build import vision_config
from qllava.model.processor import build_processor
from qllava.model.quantize import nf4_config

DTYPE = torch.bfloat16
# What an answer may take, as in chat.
_ANSWER_TOKENS = 512


def write_merged(loaded: LoadedRun, folder: Path, *, base: Base = dequantised, shard_bytes: int = SHARD_BYTES) -> int:
    """The whole model in bf16 with LoRA merged; returns bytes of its tensors.

    Args:
        loaded: the run; not changed.
        folder: exists.
        base: what LoRA is added to, see `merge.merged_tensors`.
        shard_bytes: of one weight file.
    """
    llava = llava_of(loaded.model)
    plain_config(llava.config).save_pretrained(folder)
    _write_surroundings(loaded, folder)
    tensors = ((published_name(name), _stored(tensor)) for name, tensor in merged_tensors(loaded.model, base))
    return write_shards(tensors, folder, shard_bytes=shard_bytes)


def write_four_bit(loaded: LoadedRun, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> int:
    """The run's NF4 codes as they are, the rest in bf16, and the adapter unmerged in `adapter/`; returns bytes.

    The adapter is taken off the loaded model by this: it answers like its base afterwards.
    """
    model = loaded.model
    if isinstance(model, PeftModel):
        (folder / ADAPTER_FOLDER).mkdir()
        model.save_pretrained(str(folder / ADAPTER_FOLDER))
        (folder / ADAPTER_FOLDER / "README.md").unlink(missing_ok=True)  # PEFT's own is empty of facts
        llava: LlavaForConditionalGeneration = model.unload()
    else:
        llava = model
    config = plain_config(llava.config)
    config.quantization_config = four_bit_config().to_dict()
    config.save_pretrained(folder)
    _write_surroundings(loaded, folder)
    for module in llava.modules():
        if isinstance(module, Linear4bit):
            module.weight.quant_state.dtype = DTYPE  # what a card multiplies in; the codes do not change
    return write_shards(_quantised_tensors(llava), folder, shard_bytes=shard_bytes)


def plain_config(config: LlavaConfig) -> LlavaConfig:
    """The model's config as a stranger needs it: no quantisation, no paths of this machine, stored in bf16."""
    plain = copy.deepcopy(config)
    parts: tuple[Any, ...] = (plain, plain.text_config, plain.vision_config)
    for part in parts:
        if hasattr(part, "quantization_config"):
            del part.quantization_config
        part._name_or_path = ""
        part.dtype = DTYPE
    plain.architectures = [LlavaForConditionalGeneration.__name__]
    return plain


def four_bit_config() -> BitsAndBytesConfig:
    """NF4 with bf16 compute, and every name that loaders know the unquantised modules by."""
    config = nf4_config(DTYPE)
    # vLLM and transformers 4 call these modules as their tensors are called.
    skipped = ["vision_tower", "multi_modal_projector", "language_model.lm_head"]
    config.llm_int8_skip_modules = [*(config.llm_int8_skip_modules or []), *skipped]
    return config


def generation_config(loaded: LoadedRun) -> GenerationConfig:
    """Greedy as in chat, ending where the template ends a turn, and never an image token or a padded row."""
    llava, tokenizer = llava_of(loaded.model), loaded.encoder.tokenizer
    stops = stop_ids(llava, loaded.encoder)
    suppressed = suppressed_ids(llava, loaded.encoder, stops)
    own = llava.generation_config
    return GenerationConfig(
        bos_token_id=own.bos_token_id if own is not None else tokenizer.bos_token_id,
        eos_token_id=sorted(stops),
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=torch.nonzero(suppressed).flatten().tolist(),
        max_new_tokens=_ANSWER_TOKENS,
        do_sample=False,
    )


def _write_surroundings(loaded: LoadedRun, folder: Path) -> None:
    """Processor with chat template, and generation config."""
    tower = vision_config(llava_of(loaded.model))
    build_processor(
        image_processor=loaded.image_processor,
        tokenizer=loaded.encoder.tokenizer,
        chat_template=load_chat_template(loaded.recipe.template).source,
        patch_size=tower.patch_size,
        patches=loaded.recipe.model.patches,
        has_cls=tower.model_type == "clip_vision_model",
    ).save_pretrained(folder)
    generation_config(loaded).save_pretrained(folder)


def _quantised_tensors(llava: LlavaForConditionalGeneration) -> Iterator[tuple[str, torch.Tensor]]:
    tied = bool(llava.config.tie_word_embeddings)
    codes = tuple(f"{name}.weight" for name, module in llava.named_modules() if isinstance(module, Linear4bit))
    for name, tensor in llava.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        # Codes, block scales and their own scales belong together bit for bit.
        yield published_name(name), tensor if name.startswith(codes) else _stored(tensor)


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(DTYPE) if tensor.is_floating_point() else tensor
