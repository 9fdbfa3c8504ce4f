"""The arithmetic against measurements and published figures."""

from dataclasses import replace

import pytest

from qllava.plan.activations import activation_gib, layer_bytes
from qllava.plan.arithmetic import CUDA, FP32_PROCESSOR, Arithmetic, processor_has_amx
from qllava.plan.memory import Fit, components_gib, fit, static_gib
from qllava.plan.sizes import model_sizes
from qllava.plan.work import TEXT, Job, StageText, sample_tflop, tower_flop
from qllava.recipe import LoraSettings, load_recipe
from qllava.types import Stage

KIB = 1024


def job(recipe: str, stage: Stage, **lora: float) -> Job:
    loaded = load_recipe(recipe)
    sizes = model_sizes(loaded.model)
    assert sizes is not None
    return Job(sizes, stage, LoraSettings(**lora), "nf4", TEXT[stage], loaded.data.max_length)  # type: ignore[arg-type]


# One real 7B NF4 layer, measured on a processor, where dropout keeps two bytes of noise instead of CUDA's bool.
MEASURED_WITH = Arithmetic("bf16", 2, 2, recast=False)


@pytest.mark.parametrize(
    ("stage", "lora", "kib"),
    [("align", {}, 129), ("finetune", {"rank": 64}, 168), ("finetune", {"rank": 64, "dropout": 0.05}, 269)],
)
def test_saved_activations_of_a_7b_layer(stage: Stage, lora: dict[str, float], kib: float) -> None:
    assert layer_bytes(job("llava-1.5-7b", stage, **lora), MEASURED_WITH) / KIB == pytest.approx(kib, rel=0.03)


def test_saved_activations_of_a_sample() -> None:
    assert activation_gib(job("llava-1.5-7b", "align"), 616, None) == pytest.approx(2.43, rel=0.05)
    assert activation_gib(job("llava-1.5-7b", "finetune"), 826, None) == pytest.approx(4.22, rel=0.05)


def test_what_does_not_depend_on_the_batch() -> None:
    small, large = (static_gib(job(name, "finetune"), CUDA) for name in ("llava-1.5-7b", "llava-1.5-13b"))
    assert small["language model (NF4)"] + small["absmax of the NF4 blocks"] == pytest.approx(3.1, abs=0.05)
    assert large["language model (NF4)"] + large["absmax of the NF4 blocks"] == pytest.approx(6.1, abs=0.05)
    table = 32000 * 4096 * 2 / 2**30
    assert small["embeddings (bf16)"] == small["head (bf16)"] == pytest.approx(table)
    assert 2 * table + small["vision tower (bf16)"] == pytest.approx(1.06, abs=0.03)
    learnt = 159_907_840 + 20_979_712
    assert small["LoRA (fp32)"] == pytest.approx(159_907_840 * 4 / 2**30)
    assert small["projector (fp32)"] == pytest.approx(20_979_712 * 4 / 2**30)
    assert small["gradients (fp32)"] == pytest.approx(learnt * 4 / 2**30)
    assert small["optimizer states (fp32)"] == pytest.approx(learnt * 8 / 2**30)
    assert small["bf16 copies of what learns"] == pytest.approx(learnt * 2 / 2**30)
    assert "LoRA (fp32)" not in static_gib(job("llava-1.5-7b", "align"), CUDA)


def test_states_in_8_bit_are_loras_alone() -> None:
    parts = static_gib(job("llava-1.5-7b", "finetune"), CUDA, "paged_adamw_8bit")
    # One byte a moment and one fp32 scale per 256; the projector's two moments stay fp32.
    expected = 159_907_840 * (2 + 2 * 4 / 256) + 20_979_712 * 8
    assert parts["optimizer states (8 bit)"] == pytest.approx(expected / 2**30)


def test_a_linear_projectors_identity_takes_memory_and_learns_nothing() -> None:
    parts = static_gib(job("llava-v1-7b", "align"), CUDA)
    first, identity = 1024 * 4096 + 4096, 4096 * 4097
    assert parts["projector (fp32)"] == pytest.approx((first + identity) * 4 / 2**30)
    assert parts["optimizer states (fp32)"] == pytest.approx(first * 8 / 2**30)


def test_unquantised_weights() -> None:
    parts = static_gib(replace(job("llava-1.5-7b", "align"), quantization="none"), CUDA)
    assert parts["language model (bf16)"] == pytest.approx(12.06, abs=0.01)


def test_a_processor_without_amx_computes_in_fp32() -> None:
    parts = static_gib(job("smol", "align"), FP32_PROCESSOR)
    assert parts["embeddings, also the head (fp32)"] == pytest.approx(49152 * 576 * 4 / 2**30)
    assert "vision tower (fp32)" in parts
    assert "bf16 copies of what learns" not in parts


# TFLOP a sample, checkpointed and not.
@pytest.mark.parametrize(
    ("recipe", "stage", "with_recomputation", "without"),
    [
        ("llava-v1-7b", "align", 11.8, 8.0),
        ("llava-1.5-7b", "align", 24.9, 16.8),
        ("llava-1.5-7b", "finetune", 34.5, 23.4),
    ],
)
def test_tflop_of_a_sample(recipe: str, stage: Stage, with_recomputation: float, without: float) -> None:
    work = job(recipe, stage)
    assert sample_tflop(work, 1) == pytest.approx(with_recomputation, rel=0.02)
    assert sample_tflop(work, None) == pytest.approx(without, rel=0.02)
    assert sample_tflop(work, None) < sample_tflop(work, 4) < sample_tflop(work, 2) < sample_tflop(work, 1)


def test_a_13b_costs_nearly_twice_a_7b() -> None:
    ratio = sample_tflop(job("llava-1.5-13b", "finetune"), 1) / sample_tflop(job("llava-1.5-7b", "finetune"), 1)
    assert ratio == pytest.approx(1.93, rel=0.02)


def test_the_tower() -> None:
    assert tower_flop(job("llava-v1-7b", "align").sizes.tower) / 1e12 == pytest.approx(0.16, abs=0.01)
    assert tower_flop(job("llava-1.5-7b", "align").sizes.tower) / 1e12 == pytest.approx(0.38, abs=0.01)


def test_a_7b_on_24_gb_recomputes_nothing() -> None:
    for stage in ("align", "finetune"):
        chosen = fit(job("llava-1.5-7b", stage), 23.3, cuda=True)
        assert chosen.fits
        assert chosen.checkpoint_every is None
        assert chosen.token_budget >= 2048


def test_less_memory_means_more_recomputation_and_never_a_longer_pack_than_fits() -> None:
    work = job("llava-1.5-7b", "finetune")
    order = {None: 9, 4: 4, 3: 3, 2: 2, 1: 1}
    seen: list[Fit] = [fit(work, free, cuda=True) for free in range(24, 8, -1)]
    recomputed = [order[chosen.checkpoint_every] for chosen in seen]
    assert recomputed == sorted(recomputed, reverse=True)
    for free, chosen in zip(range(24, 8, -1), seen, strict=True):
        assert chosen.token_budget >= 2048
        assert sum(chosen.components_gib.values()) == pytest.approx(
            sum(
                components_gib(
                    work, chosen.token_budget, chosen.checkpoint_every, cuda=True, optimizer=chosen.optimizer
                ).values()
            )
        )
        assert chosen.fits == (sum(chosen.components_gib.values()) <= free)
    assert not seen[-1].fits


def test_packs_stop_growing_where_it_gains_nothing() -> None:
    assert fit(job("llava-1.5-7b", "align"), 78, cuda=True).token_budget == 2048
    assert fit(job("smol", "align"), 14, cuda=False).token_budget == 512


def test_states_are_rounded_only_where_no_policy_fits_without() -> None:
    work = job("llava-1.5-7b", "finetune")
    tried = [fit(work, free / 4, cuda=True) for free in range(96, 30, -1)]
    rounded = [chosen for chosen in tried if chosen.fits and chosen.optimizer == "paged_adamw_8bit"]
    assert rounded
    assert all(chosen.checkpoint_every == 1 for chosen in rounded)
    assert all(fit(work, free, cuda=False).optimizer == "adamw" for free in (4, 8, 24))
    assert fit(job("llava-1.5-7b", "align"), 4, cuda=True).optimizer == "adamw"


def test_a_small_model_by_hand() -> None:
    """SmolLM2-135M, stage 2, rank 32, 100 tokens of a pack of three samples, in fp32, nothing recomputed."""
    work = replace(job("smol", "finetune", rank=32), text=StageText(4, 4))
    assert work.sample_tokens == work.packed_tokens == 40
    parts = components_gib(work, 100, None, cuda=False) if not processor_has_amx() else None
    if parts is None:
        pytest.skip("this processor has AMX tiles and computes in bf16")
    block = 30 * (576 * (576 + 192 + 192) + 576 * 576 + 3 * 576 * 1536)
    lora = 30 * 32 * ((576 + 576) * 2 + (576 + 192) * 2 + (576 + 1536) * 3)
    tower = work.sizes.tower
    projector = tower.width * 576 + 576 + 576 * 576 + 576
    layer = 8 * 577 + 16 * 576 + 4 * 9 + 12 * 1536 + 28 * 32 + 4 * (2 * 576 + 1536)
    pixels = 3 * tower.image_size**2 * 5
    logits = 10 * 49152 * 12  # 2.5 samples of 4
    expected = {
        "language model (NF4)": block * 0.5,
        "absmax of the NF4 blocks": block * (1 / 64 + 4 / 16384),
        "embeddings, also the head (fp32)": 49152 * 576 * 4,
        "vision tower (fp32)": tower.parameters * 4,
        "projector (fp32)": projector * 4,
        "LoRA (fp32)": lora * 4,
        "gradients (fp32)": (projector + lora) * 4,
        "optimizer states (fp32)": (projector + lora) * 8,
        "activations": 100 * (30 * layer + 576 * 12)
        + 10 * 2 * 4 * 576
        + 2.5 * (36 * 4 * (tower.width + 3 * 576) + pixels),
        "logits that exist at once": logits,
        "prefixes kept by their branches": 0,
        "one layer's backward, beyond the logits": max(0, 100 * layer - logits),
        "dequantised weights at work": 4 * 576 * 1536 * 4,
        "fragments and handles": 2**28,
        "margin": 0.7 * 2**30,
    }
    assert {name: round(gib * 2**30) for name, gib in parts.items()} == {
        name: round(size) for name, size in expected.items()
    }


def test_the_processor_has_no_cuda_context() -> None:
    assert "CUDA context" not in components_gib(job("smol", "align"), 4096, None, cuda=False)
