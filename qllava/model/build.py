"""Assembly: language model + vision tower + fresh projector -> the stock `LlavaForConditionalGeneration`."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    SiglipVisionModel,
)
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from qllava.errors import ModelError
from qllava.model.embedded import resolve_model
from qllava.model.precision import compute_dtype
from qllava.model.quantize import audit_quantization, compute_in, keep_autograd, nf4_config
from qllava.model.sizes import patch_count
from qllava.model.tokenizer import LOAD_ERRORS, not_found

TOWERS: dict[str, Any] = {"clip": CLIPVisionModel, "siglip": SiglipVisionModel}
# Rows are padded to this, so that the head's matrix product keeps an aligned width.
VOCABULARY_MULTIPLE = 64
# Assembled and source logits differ only by kernels' rounding; a lost scaling or soft-cap shows as whole units.
LOGIT_TOLERANCE = 0.05


def assemble(
    *,
    language_model: str,
    vision_tower: str,
    projector: str,
    feature_layer: int,
    patches: str,
    quantization: str,
    image_token_id: int,
    device: str,
    seed: int,
) -> LlavaForConditionalGeneration:
    """Build the model of a recipe with a fresh fp32 projector; everything else is frozen, in NF4 or the compute type.

    Args:
        language_model, vision_tower: embedded name, GGUF file, folder or hub id.
        projector: `linear` or `mlp2x_gelu`.
        feature_layer: index into the tower's hidden states, e.g. -2.
        patches: `default` drops CLIP's CLS token, `full` keeps every token.
        quantization: `nf4` or `none`.
        image_token_id: id of `<image>` in the tokenizer.
        device: `cpu` or `cuda`.
        seed: of the projector's initial weights.

    Raises:
        ModelError: a part is missing, the family is unsupported, or an audit fails.
    """
    source = load_language_model(language_model, quantization=quantization, device=device)
    tower = load_tower(vision_tower, device=device)
    _check_tower(tower.config, patches=patches, feature_layer=feature_layer)
    probe = _probe_ids(source)
    expected = _text_logits(source, probe)
    model = _join(source, tower, projector=projector, feature_layer=feature_layer, patches=patches)
    add_image_row(model, image_token_id)
    model.model.multi_modal_projector = fresh_projector(model.config, kind=projector, seed=seed).to(device)
    model.requires_grad_(False)
    audit_quantization(model, quantized=quantization == "nf4", compute=compute_dtype(device))
    _check_logits(language_model, expected, _text_logits(model, probe))
    model.train()
    return model


def load_language_model(reference: str, *, quantization: str, device: str) -> PreTrainedModel:
    """A causal language model in the device's compute type, its linears (not its head) in NF4 when asked.

    Raises:
        ModelError: missing, or its architecture is not a plain causal language model.
    """
    folder, compute = resolve_model(reference), compute_dtype(device)
    quantised = quantization == "nf4"
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder,
            # Quantised from bf16 everywhere: from fp16 weights (Vicuna's) fp32 would make other codes than a card does.
            dtype=torch.bfloat16 if quantised else compute,
            device_map={"": device},
            attn_implementation="sdpa",
            quantization_config=nf4_config(compute) if quantised else None,
            trust_remote_code=False,
        )
    except LOAD_ERRORS as error:
        raise ModelError(not_found(reference, error)) from error
    keep_autograd(model)
    if quantised and compute != torch.bfloat16:
        compute_in(model, compute)
    return model


def load_tower(reference: str, *, device: str) -> PreTrainedModel:
    """A frozen CLIP or SigLIP vision model.

    Raises:
        ModelError: missing, or another family.
    """
    folder = resolve_model(reference)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        family = str(config.model_type).removesuffix("_vision_model")
        if family not in TOWERS:
            raise ModelError(f"vision tower {reference} is a {config.model_type} model; use a CLIP or SigLIP one")
        tower: PreTrainedModel = TOWERS[family].from_pretrained(
            folder, dtype=compute_dtype(device), device_map={"": device}, attn_implementation="sdpa"
        )
    except LOAD_ERRORS as error:
        raise ModelError(not_found(reference, error)) from error
    tower.eval()
    return tower


def fresh_projector(config: LlavaConfig, *, kind: str, seed: int) -> nn.Module:
    """An fp32 projector with weights drawn from `seed`; a `linear` one is `linear_1` then a frozen identity.

    The stock module is linear_1 -> activation -> linear_2; with activation `linear` and linear_2 = identity it is
    exactly LLaVA v1's single matrix.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector = LlavaMultiModalProjector(config).float()
    if kind == "linear":
        with torch.no_grad():
            nn.init.eye_(projector.linear_2.weight)
            nn.init.zeros_(projector.linear_2.bias)
    return projector


def projector_parameters(model: LlavaForConditionalGeneration) -> list[tuple[str, nn.Parameter]]:
    """The projector's trainable parameters, by name; the identity of a `linear` projector is not among them."""
    projector = model.model.multi_modal_projector
    frozen = "linear_2." if model.config.projector_hidden_act == "linear" else None
    return [(n, p) for n, p in projector.named_parameters() if frozen is None or not n.startswith(frozen)]


def add_image_row(model: LlavaForConditionalGeneration, image_token_id: int) -> None:
    """Make sure the embedding has a row for `<image>`; the other rows keep their values, tied or not.

    New rows are the mean of the old ones, so their logits are the mean logit: they can never win, nor shift the
    softmax noticeably. The row itself is never read: image features take its place.
    """
    model.config.image_token_id = image_token_id
    embedding = input_embeddings(model)
    rows = embedding.num_embeddings
    if image_token_id < rows:
        return
    with torch.no_grad():
        mean = embedding.weight.float().mean(0)
        head_mean = model.lm_head.weight.float().mean(0)
        model.resize_token_embeddings(image_token_id + 1, pad_to_multiple_of=VOCABULARY_MULTIPLE, mean_resizing=False)
        input_embeddings(model).weight[rows:] = mean
        model.lm_head.weight[rows:] = head_mean


def input_embeddings(model: PreTrainedModel) -> nn.Embedding:
    """The token embedding table.

    Raises:
        ModelError: it is something else than a plain table.
    """
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        raise ModelError(f"{type(model).__name__} embeds tokens with {type(embedding).__name__}, not a plain table")
    return embedding


def vision_config(model: LlavaForConditionalGeneration) -> Any:
    """The tower's own config; the stock LlavaConfig types it as anything."""
    return model.config.vision_config


def _join(
    source: PreTrainedModel, tower: PreTrainedModel, *, projector: str, feature_layer: int, patches: str
) -> LlavaForConditionalGeneration:
    """Put loaded parts into a stock shell made without weights: the shell's own modules are replaced, not copied."""
    if not isinstance(getattr(source, "lm_head", None), nn.Linear) or not hasattr(source, "model"):
        raise ModelError(f"{type(source).__name__} has no `model` + `lm_head`; use a Llama, Qwen2/3, Mistral or Phi-3")
    if source.lm_head.bias is not None:
        raise ModelError(f"{type(source).__name__} has a bias on its head, which LLaVA's head drops; use another model")
    config = LlavaConfig(
        text_config=source.config,
        vision_config=tower.config,
        projector_hidden_act="linear" if projector == "linear" else "gelu",
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy=cast(Any, patches),
        image_seq_length=patch_count(tower.config, patches),
        tie_word_embeddings=bool(source.config.tie_word_embeddings),
    )
    config.dtype = source.dtype
    quantization = getattr(source.config, "quantization_config", None)
    with torch.device("meta"):
        shell: LlavaForConditionalGeneration = LlavaForConditionalGeneration._from_config(
            config, attn_implementation="sdpa"
        )
    shell.model.language_model = source.model
    shell.lm_head = source.lm_head
    shell.model.vision_tower = tower
    shell.generation_config = source.generation_config
    if quantization is not None:
        # What `from_pretrained` sets on a quantised model, and Trainer, PEFT and `generate` look for.
        shell.config.quantization_config = quantization
        for mark in ("hf_quantizer", "is_quantized", "is_loaded_in_4bit", "quantization_method"):
            setattr(shell, mark, getattr(source, mark))
    return shell


def _check_tower(config: Any, *, patches: str, feature_layer: int) -> None:
    if config.model_type == "siglip_vision_model" and patches == "default":
        raise ModelError("patches=default drops a CLS token, which SigLIP does not have; use model.patches=full")
    states = config.num_hidden_layers + 1
    if not -states <= feature_layer < states:
        raise ModelError(f"feature_layer={feature_layer} is outside the tower's {states} hidden states; use -2 or -1")


def _probe_ids(model: PreTrainedModel) -> torch.Tensor:
    """(1, 16) token ids spread over the vocabulary; any text would do."""
    rows = input_embeddings(model).num_embeddings
    return torch.linspace(0, rows - 1, 16, device=model.device).long()[None]


@torch.no_grad()
def _text_logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    model.eval()
    rows = 1 + int(ids.max())
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0, :, :rows]
    return logits.float()


def _check_logits(name: str, expected: torch.Tensor, found: torch.Tensor) -> None:
    """LLaVA's head applies no scaling, soft-cap or bias: families that need one must be refused, not trained wrong."""
    difference = float((expected - found).abs().max())
    if not difference <= LOGIT_TOLERANCE:
        raise ModelError(
            f"{name}: text logits inside LLaVA differ from the model's own by {difference:.3g}; its family scales or "
            "caps logits, which LLaVA drops. Use a Llama, Qwen2/3, Mistral or Phi-3 model"
        )
