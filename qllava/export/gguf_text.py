"""The language model as GGUF: Llama, Mistral and Qwen2 by llama.cpp's tensor names, in 16 bits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, LlamaFileType, get_tensor_name_map
from numpy.typing import NDArray
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from qllava.checkpoint.load import LoadedRun
from qllava.checkpoint.weights import llava_of
from qllava.data.chat_template import load_chat_template
from qllava.errors import ModelError
from qllava.export.gguf_tensors import write_tensors
from qllava.export.gguf_tokenizer import read_vocabulary, write_vocabulary
from qllava.export.merge import merged_tensors
from qllava.model.build import input_embeddings
from qllava.model.quantize import LANGUAGE_MODEL

ARCHITECTURES = {"llama": MODEL_ARCH.LLAMA, "mistral": MODEL_ARCH.LLAMA, "qwen2": MODEL_ARCH.QWEN2}
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
_ROPE_FACTORS = "rope_freqs.weight"


def write_text_model(loaded: LoadedRun, path: Path, name: str) -> int:
    """Write the merged language model with its tokenizer and chat template; returns bytes of its tensors.

    Raises:
        ModelError: a family or tokenizer that llama.cpp's format has no certain words for.
    """
    config: Any = llava_of(loaded.model).config.text_config
    check_family(config)
    architecture = ARCHITECTURES[config.model_type]
    writer = GGUFWriter(path, MODEL_ARCH_NAMES[architecture])
    writer.add_name(name)
    _write_shape(writer, config)
    _write_words(writer, loaded)
    return write_tensors(writer, text_tensors(loaded))


def check_family(config: Any) -> None:
    """Refuse what would be written wrongly.

    Raises:
        ModelError: an architecture or a rope scaling that is not known here.
    """
    if config.model_type not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ModelError(f"GGUF export knows {known}; {config.model_type} can go with --to hf, or --llama-cpp DIR")
    rope = config.rope_parameters
    if rope.get("rope_type", "default") not in ("default", "llama3"):
        raise ModelError(f"GGUF export does not know rope scaling {rope['rope_type']!r}; use --llama-cpp DIR")


def text_tensors(loaded: LoadedRun) -> Iterator[tuple[str, NDArray[Any]]]:
    """(llama.cpp's name, array) of the merged language model: matrices in fp16, vectors in fp32."""
    config: Any = llava_of(loaded.model).config.text_config
    architecture = ARCHITECTURES[config.model_type]
    names = get_tensor_name_map(architecture, config.num_hidden_layers)
    if config.rope_parameters.get("rope_type", "default") == "llama3":
        yield _ROPE_FACTORS, rope_factors(config)
    for name, tensor in merged_tensors(loaded.model):
        plain = _stock_name(name)
        if plain is None:
            continue
        mapped = names.get_name(plain, try_suffixes=(".weight", ".bias"))
        if mapped is None:
            raise ModelError(f"GGUF has no name for {name}; use --llama-cpp DIR")
        weight = tensor.detach().float().cpu()
        if architecture == MODEL_ARCH.LLAMA and plain.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if ".q_proj." in plain else config.num_key_value_heads
            weight = interleaved(weight, heads)
        yield mapped, _stored(weight)


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """(out, in) rows of each head from transformers' halves to the pairs that llama.cpp rotates."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def rope_factors(config: Any) -> NDArray[np.float32]:
    """(head width / 2,) by what llama3's scaling divides each frequency."""
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    width = 2 * len(scaled)
    plain = config.rope_parameters["rope_theta"] ** -(torch.arange(0, width, 2).float() / width)
    factors: NDArray[np.float32] = (plain / scaled.float()).numpy()
    return factors


def plain_template(source: str) -> str:
    """A chat template without the marks of what is trained, which only transformers knows."""
    return _GENERATION.sub(lambda found: "{%- set _ = 0 -%}" if "-" in found[0] else "", source)


def _stock_name(name: str) -> str | None:
    """The tensor's name in a plain language model; None for tower and projector."""
    if name.startswith(LANGUAGE_MODEL):
        return f"model.{name.removeprefix(LANGUAGE_MODEL)}"
    return name if name.startswith("lm_head.") else None


def _stored(weight: torch.Tensor) -> NDArray[Any]:
    array: NDArray[Any] = (weight if weight.dim() == 1 else weight.half()).contiguous().numpy()
    return array


def _write_shape(writer: GGUFWriter, config: Any) -> None:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)


def _write_words(writer: GGUFWriter, loaded: LoadedRun) -> None:
    tokenizer, template = loaded.encoder.tokenizer, load_chat_template(loaded.recipe.template)
    rows = input_embeddings(llava_of(loaded.model)).num_embeddings
    ends = [tokenizer.convert_tokens_to_ids(stop) for stop in template.stop]
    known = [end for end in ends if isinstance(end, int) and end != tokenizer.unk_token_id]
    write_vocabulary(writer, read_vocabulary(tokenizer, rows), tokenizer, (known or [tokenizer.eos_token_id])[0])
    writer.add_add_bos_token("bos_token" in template.source)
    writer.add_chat_template(plain_template(template.source))
