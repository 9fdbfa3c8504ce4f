"""Vision tower and projector as llama.cpp's `mmproj` file.

llama.cpp runs a LLaVA file as: the tower up to the feature layer, without its class token, then mm.0, GELU, mm.2. A
linear projector fits exactly: gelu(x) - gelu(-x) = x for the GELU of transformers and for its tanh form alike, so
mm.0 = [W; -W] and mm.2 = [I, -I].
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, LlamaFileType
from numpy.typing import NDArray

from qllava.checkpoint.load import LoadedRun
from qllava.checkpoint.weights import llava_of
from qllava.data.images import pixel_statistics
from qllava.errors import ModelError
from qllava.export.gguf_tensors import write_tensors

# transformers' names inside one encoder layer, and llama.cpp's.
LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
_GELUS = {"quick_gelu": None, "gelu": True, "gelu_pytorch_tanh": True}


def write_vision(loaded: LoadedRun, path: Path, name: str) -> int:
    """Write tower and projector; returns bytes of the tensors.

    Raises:
        ModelError: a tower or choice of patches that llama.cpp runs otherwise.
    """
    llava = llava_of(loaded.model)
    config: Any = llava.config.vision_config
    words: Any = llava.config.text_config
    check_vision(llava.config)
    layers = needed_layers(llava.config)
    writer = GGUFWriter(path, MODEL_ARCH_NAMES[MODEL_ARCH.MMPROJ])
    writer.add_type("mmproj")
    writer.add_name(name)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("mlp")
    writer.add_vision_image_size(config.image_size)
    writer.add_vision_patch_size(config.patch_size)
    writer.add_vision_embedding_length(config.hidden_size)
    writer.add_vision_feed_forward_length(config.intermediate_size)
    writer.add_vision_projection_dim(words.hidden_size)
    # One layer more than is run, where there is one: llama.cpp before the key `feature_layer` runs all but the last.
    kept = min(layers + 1, config.num_hidden_layers)
    writer.add_vision_block_count(kept)
    writer.add_array("clip.vision.feature_layer", [layers])
    writer.add_vision_head_count(config.num_attention_heads)
    writer.add_vision_attention_layernorm_eps(config.layer_norm_eps)
    if _GELUS[config.hidden_act]:
        writer.add_vision_use_gelu(True)
    mean, std = pixel_statistics(loaded.image_processor)
    writer.add_vision_image_mean(list(mean))
    writer.add_vision_image_std(list(std))
    return write_tensors(writer, vision_tensors(loaded, kept))


def check_vision(config: Any) -> None:
    """Refuse what llama.cpp's graph would run otherwise than training did.

    Raises:
        ModelError: names it.
    """
    tower = config.vision_config
    if tower.hidden_act not in _GELUS:
        raise ModelError(f"llama.cpp does not know the tower's activation {tower.hidden_act!r}; use --to hf")
    if tower.model_type == "clip_vision_model" and config.vision_feature_select_strategy != "default":
        raise ModelError("llama.cpp drops CLIP's class token and this run was trained with it (patches=full); use hf")


def needed_layers(config: Any) -> int:
    """How many encoder layers the feature layer stands behind: -2 of 24 layers is 23."""
    states = int(config.vision_config.num_hidden_layers) + 1
    return int(config.vision_feature_layer) % states


def shape_note(image_aspect: str) -> str | None:
    """What a user has to know of pictures, since llama.cpp pads them to a square with a colour of its own."""
    if image_aspect == "pad":
        return None
    how = {"crop": "cut to their middle square", "squash": "squeezed into a square"}[image_aspect]
    return f"llama.cpp pads pictures to a square; this run saw them {how}: hand it square pictures"


def vision_tensors(loaded: LoadedRun, layers: int) -> Iterator[tuple[str, NDArray[Any]]]:
    """(llama.cpp's name, array): matrices in fp16, the rest in fp32."""
    llava = llava_of(loaded.model)
    tower = dict(llava.model.vision_tower.named_parameters())
    if "embeddings.class_embedding" in tower:
        yield "v.class_embd", _vector(tower["embeddings.class_embedding"])
    yield "v.patch_embd.weight", _matrix(tower["embeddings.patch_embedding.weight"])
    if "embeddings.patch_embedding.bias" in tower:
        yield "v.patch_embd.bias", _vector(tower["embeddings.patch_embedding.bias"])
    yield "v.position_embd.weight", _vector(tower["embeddings.position_embedding.weight"])
    if "pre_layrnorm.weight" in tower:  # transformers' own spelling
        yield "v.pre_ln.weight", _vector(tower["pre_layrnorm.weight"])
        yield "v.pre_ln.bias", _vector(tower["pre_layrnorm.bias"])
    for index in range(layers):
        for theirs, ours in LAYER_NAMES.items():
            weight, bias = (tower[f"encoder.layers.{index}.{theirs}.{kind}"] for kind in ("weight", "bias"))
            yield f"v.blk.{index}.{ours}.weight", _matrix(weight) if weight.dim() > 1 else _vector(weight)
            yield f"v.blk.{index}.{ours}.bias", _vector(bias)
    yield from projector_tensors(loaded)


def projector_tensors(loaded: LoadedRun) -> Iterator[tuple[str, NDArray[Any]]]:
    """mm.0 and mm.2; a linear projector doubled so that the GELU between them cancels."""
    config = llava_of(loaded.model).config
    projector = {
        name: tensor.detach().float().cpu()
        for name, tensor in llava_of(loaded.model).model.multi_modal_projector.state_dict().items()
    }
    first, bias = projector["linear_1.weight"], projector["linear_1.bias"]
    second, last = projector["linear_2.weight"], projector["linear_2.bias"]
    if config.projector_hidden_act == "linear":
        second = torch.cat([second, -second], dim=1)
        first, bias = torch.cat([first, -first]), torch.cat([bias, -bias])
    yield "mm.0.weight", _matrix(first)
    yield "mm.0.bias", _vector(bias)
    yield "mm.2.weight", _matrix(second)
    yield "mm.2.bias", _vector(last)


def _matrix(tensor: torch.Tensor) -> NDArray[np.float16]:
    array: NDArray[np.float16] = tensor.detach().float().cpu().half().contiguous().numpy()
    return array


def _vector(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().cpu().contiguous().numpy()
    return array
