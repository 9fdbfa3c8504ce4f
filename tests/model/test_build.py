"""Assembly: what is quantised, what learns, and that the text model inside stays what it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM, GraniteConfig, GraniteForCausalLM, LlavaForConditionalGeneration

from qllava.errors import ModelError
from qllava.model.build import assemble, load_language_model, projector_parameters
from qllava.model.forward import loss_sum
from qllava.model.lora import add_lora, audit_lora
from qllava.model.precision import autocast, compute_dtype
from qllava.model.quantize import audit_quantization, nf4_config
from qllava.model.tokenizer import load_tokenizer
from tests.packs import random_pack
from tests.tiny import save_language_model, save_tokenizer, save_tower


def build(
    tmp_path: Path,
    *,
    family: str = "llama",
    tower: str = "clip",
    quantization: str = "nf4",
    projector: str = "mlp2x_gelu",
    patches: str = "default",
    tied: bool = True,
) -> LlavaForConditionalGeneration:
    language_model = save_language_model(tmp_path / "lm", family, tied=tied)
    return assemble(
        language_model=str(language_model),
        vision_tower=str(save_tower(tmp_path / "tower", tower)),
        projector=projector,
        feature_layer=-2,
        patches=patches,
        quantization=quantization,
        image_token_id=load_tokenizer(str(language_model))[1],
        device="cpu",
        seed=3,
    )


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_only_the_language_models_linears_are_nf4(tmp_path: Path, family: str) -> None:
    model = build(tmp_path, family=family)
    quantised = {name for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    layers = [f"model.language_model.layers.{i}." for i in range(2)]
    parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    parts += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert quantised == {layer + part for layer in layers for part in parts}
    assert audit_quantization(model, quantized=True, compute=compute_dtype("cpu")) == 14
    assert {p.dtype for p in model.model.vision_tower.parameters()} == {compute_dtype("cpu")}
    assert {p.dtype for p in model.model.multi_modal_projector.parameters()} == {torch.float32}
    assert model.lm_head.weight.dtype == compute_dtype("cpu")
    assert not any(p.requires_grad for p in model.parameters())


def test_codes_of_half_precision_weights_are_those_of_a_card(tmp_path: Path) -> None:
    """A card quantises from bf16; fp16 weights (Vicuna's) must not become other codes where fp32 is computed in."""
    folder = save_language_model(tmp_path / "lm")
    half = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for parameter in half.parameters():
            parameter.add_(torch.randn_like(parameter) * 1e-3)  # more bits than bf16 has
    half.to(torch.float16).save_pretrained(folder)
    on_a_card = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=nf4_config(torch.bfloat16)
    )
    here = load_language_model(str(folder), quantization="nf4", device="cpu")
    compute = compute_dtype("cpu")
    assert here.lm_head.weight.dtype == here.model.norm.weight.dtype == compute
    for name, module in on_a_card.named_modules():
        if isinstance(module, Linear4bit):
            found = here.get_submodule(name)
            assert torch.equal(found.weight, module.weight)
            assert torch.equal(found.weight.quant_state.absmax, module.weight.quant_state.absmax)
            assert found.weight.quant_state.dtype == compute


@pytest.mark.parametrize("tied", [True, False])
def test_image_token_disturbs_no_other(tmp_path: Path, tied: bool) -> None:
    model = build(tmp_path, tied=tied)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "lm", dtype=compute_dtype("cpu"))
    rows = plain.get_input_embeddings().num_embeddings
    assert model.config.image_token_id == rows
    assert model.get_input_embeddings().num_embeddings % 64 == 0
    assert torch.equal(model.get_input_embeddings().weight[:rows], plain.get_input_embeddings().weight)
    assert torch.equal(model.lm_head.weight[:rows], plain.lm_head.weight)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    mean = plain.lm_head.weight.float().mean(0).to(compute_dtype("cpu"))
    assert torch.equal(model.lm_head.weight[rows], mean)


def test_padded_vocabulary_is_not_grown(tmp_path: Path) -> None:
    folder = save_language_model(tmp_path / "lm")
    padded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    padded.resize_token_embeddings(448, mean_resizing=False)
    padded.save_pretrained(folder)
    tokenizer, image_token_id = load_tokenizer(str(folder))
    assert image_token_id == len(tokenizer) - 1 < 448
    model = assemble(
        language_model=str(folder),
        vision_tower=str(save_tower(tmp_path / "tower")),
        projector="linear",
        feature_layer=-1,
        patches="full",
        quantization="none",
        image_token_id=image_token_id,
        device="cpu",
        seed=0,
    )
    assert model.get_input_embeddings().num_embeddings == 448
    assert model.config.image_seq_length == 17


def test_linear_projector_is_exactly_one_matrix(tmp_path: Path) -> None:
    model = build(tmp_path, projector="linear")
    projector = model.model.multi_modal_projector
    features = torch.randn(2, 16, 32)
    assert torch.equal(projector(features), projector.linear_1(features))
    assert [name for name, _ in projector_parameters(model)] == ["linear_1.weight", "linear_1.bias"]


def test_scaled_logits_are_refused(tmp_path: Path) -> None:
    tokenizer = save_tokenizer(tmp_path / "lm")
    config = GraniteConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        logits_scaling=8.0,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    GraniteForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "lm")
    with pytest.raises(ModelError, match=r"text logits inside LLaVA differ .* scales or caps"):
        assemble(
            language_model=str(tmp_path / "lm"),
            vision_tower=str(save_tower(tmp_path / "tower")),
            projector="linear",
            feature_layer=-2,
            patches="default",
            quantization="none",
            image_token_id=len(tokenizer),
            device="cpu",
            seed=0,
        )


def test_siglip_has_no_cls_token(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"SigLIP does not have; use model.patches=full"):
        build(tmp_path, tower="siglip")
    assert build(tmp_path, tower="siglip", patches="full").config.image_seq_length == 16


def test_lora_lands_on_the_language_model_only(tmp_path: Path) -> None:
    wrapped = add_lora(build(tmp_path), rank=4, alpha=8, dropout=0.0, seed=0)
    assert audit_lora(wrapped) == 14
    lora = {name: p for name, p in wrapped.named_parameters() if "lora_" in name}
    assert len(lora) == 28
    assert all(".language_model." in name for name in lora)
    assert {p.dtype for p in lora.values()} == {torch.float32}


def test_evaluating_before_training_does_not_change_gradients(tmp_path: Path) -> None:
    """The AVX512 trap: a forward in eval mode without grad must not swap in a kernel that has no backward."""

    def gradients(evaluate_first: bool) -> list[torch.Tensor]:
        model = add_lora(build(tmp_path), rank=4, alpha=8, dropout=0.0, seed=0)
        pack = random_pack(model.config, seed=0)
        if evaluate_first:
            model.eval()
            with torch.no_grad(), autocast("cpu"):
                loss_sum(model.get_base_model(), pack)
        model.train()
        trained = [p for n, p in model.named_parameters() if "lora_" in n or "multi_modal_projector" in n]
        for parameter in trained:
            parameter.requires_grad_(True)
        with autocast("cpu"):
            loss_sum(model.get_base_model(), pack)[0].backward()
        assert all(p.grad is not None for p in trained)
        return [p.grad for p in trained if p.grad is not None]

    undisturbed, after = gradients(False), gradients(True)
    assert any(g.abs().max() > 0 for g in undisturbed)
    assert all(torch.equal(a, b) for a, b in zip(undisturbed, after, strict=True))


def test_missing_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model .*nowhere cannot be loaded .* give a local folder"):
        load_tokenizer(str(tmp_path / "nowhere"))
