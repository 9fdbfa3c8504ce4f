"""What the planner says a layer keeps, against the tensors that a real NF4 Llama saves for its backward pass."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from qllava.model.attention import as_numbers, tree_mask
from qllava.model.quantize import keep_autograd, nf4_config
from qllava.plan.activations import LOGITS_AT_ONCE, layer_bytes, pack_gib
from qllava.plan.arithmetic import BF16_PROCESSOR, CUDA, FP32_PROCESSOR, Arithmetic, processor_has_amx
from qllava.plan.sizes import LanguageSizes, ModelSizes, TowerSizes
from qllava.plan.work import Job, Sharing, StageText
from qllava.recipe import LoraSettings
from qllava.types import Stage

SIZES = LanguageSizes(layers=3, width=256, heads=4, kv_heads=2, mlp=704, vocab=320)
TOWER = TowerSizes(3, 32, 64, 32, 8)
RANK = 16
TOKENS = (64, 128, 192)
# bf16 LoRA without autocast saves what CUDA's autocast does: inputs are not cast, so matrices share them.
UNCAST = Arithmetic("bf16", 2, 2, recast=False)


def job(stage: Stage, dropout: float = 0.0) -> Job:
    sizes = ModelSizes(SIZES, TOWER, 16, projector=1000)
    return Job(sizes, stage, LoraSettings(rank=RANK, dropout=dropout), "nf4", StageText(40, 20), 512)


def save_models(folder: Path) -> dict[int, Path]:
    """Two random Llamas that differ in their number of layers: what the first layer and the ends keep cancels out."""
    for layers in (1, SIZES.layers):
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=SIZES.width,
            intermediate_size=SIZES.mlp,
            num_hidden_layers=layers,
            num_attention_heads=SIZES.heads,
            num_key_value_heads=SIZES.kv_heads,
            vocab_size=SIZES.vocab,
        )
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / str(layers))
    return {layers: folder / str(layers) for layers in (1, SIZES.layers)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return save_models(tmp_path_factory.mktemp("models"))


def load(folder: Path, stage: Stage, dropout: float, compute: torch.dtype, lora_type: torch.dtype) -> Any:
    """NF4 weights computing in `compute`, with LoRA on all linears in stage 2."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=compute, device_map={"": "cpu"}, quantization_config=nf4_config(compute)
    )
    keep_autograd(model)
    model.requires_grad_(False)
    if stage == "finetune":
        config = LoraConfig(r=RANK, lora_dropout=dropout, target_modules=r".*layers\.\d+\..*_proj")
        model = get_peft_model(model, config, autocast_adapter_dtype=False)
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.to(lora_type)
    return model.train()


def saved_bytes(model: Any, tokens: int, compute: torch.dtype, *, autocast: bool) -> int:
    """Bytes of all storages that one masked forward saves for its backward; weights and inputs not counted."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            own += [state.absmax, state.code, state.state2.absmax, state.state2.code, state.offset]
    inputs = torch.randn(1, tokens, SIZES.width).to(compute).requires_grad_()
    within = torch.zeros(tokens, dtype=torch.long)
    mask = as_numbers(tree_mask(within, within[:1]), torch.bfloat16 if autocast else compute)
    assert isinstance(mask, torch.Tensor)
    known = {tensor.untyped_storage().data_ptr() for tensor in [*own, inputs, mask]}
    saved: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage  # held, so that no address comes twice
        return tensor

    context = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), context:
        positions = torch.arange(tokens)[None]
        base.model(inputs_embeds=inputs, position_ids=positions, attention_mask=mask, use_cache=False)
    return sum(storage.nbytes() for storage in saved.values())


@pytest.mark.parametrize(("stage", "dropout"), [("align", 0.0), ("finetune", 0.0), ("finetune", 0.05)])
@pytest.mark.parametrize("compute", [FP32_PROCESSOR, BF16_PROCESSOR, UNCAST], ids=["fp32", "bf16", "as-on-cuda"])
def test_a_layer_keeps_what_the_formula_says(
    models: dict[int, Path], stage: Stage, dropout: float, compute: Arithmetic
) -> None:
    dtype = torch.float32 if compute.element == 4 else torch.bfloat16
    autocast = compute is BF16_PROCESSOR
    small, large = (
        load(folder, stage, dropout, dtype, torch.float32 if autocast else dtype) for folder in models.values()
    )
    layer = [
        (saved_bytes(large, n, dtype, autocast=autocast) - saved_bytes(small, n, dtype, autocast=autocast))
        / (SIZES.layers - 1)
        for n in TOKENS
    ]
    # Weights cast by autocast, bytes a token, bytes a pair of tokens (a mask of its own, which no layer makes).
    _, a_token, a_pair = np.linalg.solve([[1.0, n, n * n] for n in TOKENS], layer)
    assert a_token == pytest.approx(layer_bytes(job(stage, dropout), compute), rel=0.01)
    assert a_pair == pytest.approx(0, abs=0.05)


def test_autocasts_copies_of_lora_are_held_until_backward(models: dict[int, Path]) -> None:
    model = load(models[1], "finetune", 0.0, torch.bfloat16, torch.float32)
    counts = [saved_bytes(model, n, torch.bfloat16, autocast=True) for n in TOKENS]
    constant = np.linalg.solve([[1.0, n, n * n] for n in TOKENS], counts)[0]
    lora = sum(p.numel() for n, p in model.named_parameters() if ".lora_" in n)
    assert constant == pytest.approx(2 * lora, rel=0.05)  # beside it, one inverse frequency a head


def test_by_hand() -> None:
    # Norms 8 x 257, attention 4 x 2 x 256 + 4 x 4, MLP 3 x 2 x 704; LoRA 7 x 2 x 16 + 2 x (512 + 704).
    assert layer_bytes(job("align"), CUDA) == 2056 + 2064 + 4224
    assert layer_bytes(job("finetune"), CUDA) == 8344 + 224 + 2432
    # Dropped inputs of q, k, v, gate, up (256 each), o (256), down (704): two bytes and a bool.
    assert layer_bytes(job("finetune", 0.05), CUDA) == 8344 + 224 + 3 * (5 * 256 + 256 + 704)


def test_checkpointing_keeps_layers_inputs() -> None:
    everything, every_2nd, every = (pack_gib(job("align"), 100, n)["activations"] for n in (None, 2, 1))
    # Layers 1 and 3 of 3 keep 512 bytes a token instead of 8344.
    assert (everything - every_2nd) * 2**30 == pytest.approx(2 * 100 * (8344 - 512))
    assert (everything - every) * 2**30 == pytest.approx(3 * 100 * (8344 - 512))
    for policy in (None, 1):
        assert pack_gib(job("align"), 100, policy)["attention mask"] * 2**30 == pytest.approx(100**2 * (2 + 1))


def test_shared_pictures_are_kept_once() -> None:
    alone = job("finetune")
    together = Job(alone.sizes, "finetune", alone.lora, "nf4", alone.text, 512, Sharing(2.0, prefix=4))
    assert (alone.packed_tokens, together.packed_tokens) == (56, 56 - 0.5 * 20)
    # The same tokens hold more samples, so more of them are supervised.
    many, few = (pack_gib(work, 460, None)["logits that exist at once"] for work in (together, alone))
    assert many / few == pytest.approx(56 / 46)
    # On a processor every branch keeps the keys and values of its prefix: 16 image tokens and 4 more.
    branches = "prefixes kept by their branches"
    assert pack_gib(alone, 460, None, FP32_PROCESSOR)[branches] == 0
    assert pack_gib(together, 460, None, FP32_PROCESSOR)[branches] * 2**30 == pytest.approx(10 * 20 * 2 * 4 * 256 * 3)


def test_logits_are_counted_as_many_as_exist_at_once() -> None:
    wide = replace(job("finetune"), sizes=ModelSizes(replace(SIZES, vocab=128256), TOWER, 16, projector=1000))
    some, many = (pack_gib(wide, tokens, None)["logits that exist at once"] * 2**30 for tokens in (140, 14000))
    assert some == pytest.approx(140 / 56 * 20 * 128256 * 12)
    assert many == LOGITS_AT_ONCE * 12


def test_amx_is_read_from_the_processor(tmp_path: Path) -> None:
    assert processor_has_amx() == torch.cpu._is_amx_tile_supported()
    for flags, found in (("fpu amx_tile sse", True), ("fpu avx512_bf16", False)):
        path = tmp_path / flags.split()[1]
        path.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
        assert processor_has_amx(path) is found
    assert not processor_has_amx(tmp_path / "none")
