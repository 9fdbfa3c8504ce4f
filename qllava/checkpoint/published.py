"""Any LLaVA checkpoint in transformers' format, ready to answer: a published one, or an export of ours.

What is no LLaVA is refused before its weights are read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    BaseImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.utils.hub import cached_file

from qllava.checkpoint.manifest import MANIFEST
from qllava.data.chat_template import IMAGE_TOKEN, ChatTemplate, load_chat_template, marked_template, template_names
from qllava.data.encode import ChatEncoder
from qllava.data.foreign_template import ForeignEncoder
from qllava.data.images import to_pixels
from qllava.errors import ModelError, RecipeError, UsageError
from qllava.files import sha256
from qllava.model.build import vision_config
from qllava.model.precision import compute_dtype
from qllava.model.quantize import compute_in, keep_autograd, nf4_config
from qllava.model.sizes import patch_count
from qllava.model.tokenizer import not_found

_CONVERTED = "use one in transformers' format, e.g. llava-hf/llava-1.5-7b-hf"
ADAPTER_FOLDER = "adapter"
"""Where a 4-bit export has its adapter, unmerged."""
_TOWERS = ("clip_vision_model", "siglip_vision_model")


@dataclass(frozen=True)
class PublishedModel:
    """A LLaVA model with what turns messages and pictures into its input; what `infer.engine.Engine` takes.

    `model` is in eval mode and nothing requires grad; `encoder` speaks the model's own chat template.
    """

    reference: str
    model: PeftModel | LlavaForConditionalGeneration
    encoder: ChatEncoder
    image_processor: BaseImageProcessor
    device: str


def check_published(reference: str) -> str:
    """Look at a model without reading its weights.

    Args:
        reference: hub id or folder.

    Returns: what tells its files from others': the commit of a hub model, a hash of a folder's files.

    Raises:
        UsageError: the folder is a run of ours.
        ModelError: it is not there, or no LLaVA that the stock class loads.
    """
    folder = Path(reference)
    if (folder / MANIFEST).is_file() and not (folder / "config.json").is_file():
        raise UsageError(f"--model {reference} is a run of qllava; give it with --run {reference}")
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ModelError(f"{reference} holds a LoRA adapter and no model; merge it into its base first")
    values, path = _config(reference)
    found = str(values.get("model_type"))
    if found != "llava":
        raise ModelError(f"{reference} is a {found} model, not LLaVA (model_type llava); {_CONVERTED}")
    if "vision_config" not in values or "text_config" not in values:
        # LLaVA's original checkpoints share the name but not the format; the stock class would fill in defaults.
        raise ModelError(f"{reference} is in LLaVA's original format, which transformers does not read; {_CONVERTED}")
    tower = str(values["vision_config"].get("model_type"))
    if tower not in _TOWERS:
        raise ModelError(f"{reference} has a {tower} vision tower; qllava answers with CLIP and SigLIP towers")
    if not isinstance(values.get("vision_feature_layer", -2), int):
        raise ModelError(f"{reference} reads several tower layers at once; qllava answers with models that read one")
    if folder.is_dir():
        return _folder_digest(folder)
    # A hub model's files lie in a folder named by their commit.
    return path.parent.name


def load_published(reference: str, *, device: str, quantization: str = "none") -> PublishedModel:
    """Load a LLaVA checkpoint in the device's compute type.

    Args:
        reference: hub id or folder.
        device: `cpu` or `cuda`.
        quantization: `nf4` puts the language model's linears in 4 bits, `none` leaves all as stored.

    Raises:
        UsageError, ModelError: as `check_published`; weights or processor files are missing or do not fit.
    """
    check_published(reference)
    dtype = compute_dtype(device)
    try:
        # Annotated as the model alone.
        model, report = cast(
            tuple[LlavaForConditionalGeneration, dict[str, Any]],
            LlavaForConditionalGeneration.from_pretrained(
                reference,
                dtype=dtype,
                device_map={"": device},
                attn_implementation="sdpa",
                quantization_config=nf4_config(dtype) if quantization == "nf4" else None,
                output_loading_info=True,
            ),
        )
        processor: Any = AutoProcessor.from_pretrained(reference, trust_remote_code=False)
        # The PIL class by name: the other backends resize to other pixels.
        image_processor: Any = AutoImageProcessor.from_pretrained(reference, backend="pil", trust_remote_code=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(not_found(reference, error)) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ModelError(f"{reference} lacks {len(missing)} weights (first: {missing[0]}); download or export it again")
    keep_autograd(model)
    if dtype != torch.bfloat16:
        compute_in(model, dtype)  # an export's 4-bit codes are stored with bf16 beside them
    answering: PeftModel | LlavaForConditionalGeneration = model
    if (Path(reference) / ADAPTER_FOLDER / "adapter_config.json").is_file():
        answering = PeftModel.from_pretrained(model, Path(reference) / ADAPTER_FOLDER)
    answering.requires_grad_(False)
    answering.eval()
    _check_pixels(reference, image_processor, vision_config(model).image_size)
    source = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)
    encoder = _encoder(reference, source, processor.tokenizer, model.config)
    return PublishedModel(reference, answering, encoder, image_processor, device)


def _encoder(reference: str, source: object, tokenizer: PreTrainedTokenizerFast, config: LlavaConfig) -> ChatEncoder:
    if not isinstance(source, str):
        raise ModelError(f"{reference} has no chat template (or several); add a chat_template.jinja to its processor")
    if not tokenizer.is_fast:
        raise ModelError(f"{reference} has no fast tokenizer; use a model that has one")
    image_token_id = int(cast(Any, config).image_token_id)
    if tokenizer.convert_ids_to_tokens(image_token_id) != IMAGE_TOKEN:
        found = tokenizer.convert_ids_to_tokens(image_token_id)
        raise ModelError(f"{reference} marks pictures with {found!r}, not {IMAGE_TOKEN!r}; use another model")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tower = cast(Any, config).vision_config
    # `default` drops the first token of any tower, CLS or not; so the stock class has it.
    tokens = patch_count(tower, "full") - (config.vision_feature_select_strategy == "default")
    marked = _marked(reference, source)
    if marked is not None:
        try:
            return ChatEncoder(tokenizer, marked, image_token_id, tokens)
        except RecipeError:
            pass  # its ends are no tokens of this tokenizer: it is not one of ours after all
    encoder = ForeignEncoder(tokenizer, ChatTemplate(reference, source, ()), image_token_id, tokens)
    encoder.check()
    return encoder


def _marked(reference: str, source: str) -> ChatTemplate | None:
    """The template as training knows it, if it is one that a run of ours could have: then answers are the run's."""
    for name in template_names():
        shipped = load_chat_template(name)
        if shipped.source.strip() == source.strip():
            return shipped
    if "endgeneration" not in source:
        return None
    try:
        template = marked_template(reference, source)
    except RecipeError:
        return None
    # llava-hf's own marks end an answer with a space, which would end it after one word.
    return template if all(stop.strip() for stop in template.stop) else None


def _check_pixels(reference: str, processor: BaseImageProcessor, side: int) -> None:
    """Normalising is done on the device, and assumes what CLIP and SigLIP do: one size, 0-255 to 0-1, mean and std."""
    stock = cast(Any, processor)
    shape = to_pixels(processor, Image.new("RGB", (side + 8, side // 2))).shape
    if shape != (3, side, side):
        raise ModelError(
            f"{reference} makes pictures of {shape[1]} x {shape[2]} pixels, its tower takes {side} x {side}"
        )
    plain = stock.do_rescale and abs(stock.rescale_factor * 255 - 1) < 1e-6 and stock.do_normalize
    if not plain:
        raise ModelError(f"{reference} does not scale pixels to 0-1 and normalise them; use a CLIP or SigLIP processor")


def _config(reference: str) -> tuple[dict[str, Any], Path]:
    folder = Path(reference)
    try:
        found = folder / "config.json" if folder.is_dir() else cached_file(reference, "config.json")
        path = Path(cast(str, found))
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(not_found(reference, error)) from None
    if not isinstance(values, dict):
        raise ModelError(f"{path} is no model config; {_CONVERTED}")
    return values, path


def _folder_digest(folder: Path) -> str:
    """One hash of all files of a model folder; the weights are about to be read anyway."""
    parts = [f"{p.name} {sha256(p)}" for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
