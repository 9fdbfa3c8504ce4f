"""The arithmetic against measurements and published figures."""

from dataclasses import replace

import pytest

from qllava.plan.memory import Fit, activation_gib, components_gib, fit, layer_bytes, static_gib
from qllava.plan.sizes import model_sizes
from qllava.plan.work import TEXT, Job, sample_tflop, tower_flop
from qllava.recipe import LoraSettings, load_recipe
from qllava.types import Stage

KIB = 1024


def job(recipe: str, stage: Stage, **lora: float) -> Job:
    loaded = load_recipe(recipe)
    sizes = model_sizes(loaded.model)
    assert sizes is not None
    return Job(sizes, stage, LoraSettings(**lora), "nf4", TEXT[stage], loaded.data.max_length)  # type: ignore[arg-type]


# One real 7B NF4 layer, measured.
@pytest.mark.parametrize(
    ("stage", "lora", "kib"),
    [("align", {}, 129), ("finetune", {"rank": 64}, 168), ("finetune", {"rank": 64, "dropout": 0.05}, 269)],
)
def test_saved_activations_of_a_7b_layer(stage: Stage, lora: dict[str, float], kib: float) -> None:
    assert layer_bytes(job("llava-1.5-7b", stage, **lora)) / KIB == pytest.approx(kib, rel=0.03)


def test_saved_activations_of_a_sample() -> None:
    assert activation_gib(job("llava-1.5-7b", "align"), 616, None) == pytest.approx(2.43, rel=0.05)
    assert activation_gib(job("llava-1.5-7b", "finetune"), 826, None) == pytest.approx(4.22, rel=0.05)


def test_what_does_not_depend_on_the_batch() -> None:
    small, large = (static_gib(job(name, "finetune")) for name in ("llava-1.5-7b", "llava-1.5-13b"))
    assert small["language model (NF4)"] == pytest.approx(3.1, abs=0.05)
    assert large["language model (NF4)"] == pytest.approx(6.1, abs=0.05)
    assert small["embeddings and head (bf16)"] + small["vision tower (bf16)"] == pytest.approx(1.06, abs=0.03)
    assert small["projector (fp32 + AdamW)"] == pytest.approx(0.31, abs=0.01)
    assert small["LoRA (fp32 + AdamW)"] == pytest.approx(159_907_840 * 16 / 2**30)
    assert "LoRA (fp32 + AdamW)" not in static_gib(job("llava-1.5-7b", "align"))


def test_unquantised_weights() -> None:
    parts = static_gib(replace(job("llava-1.5-7b", "align"), quantization="none"))
    assert parts["language model (bf16)"] == pytest.approx(12.06, abs=0.01)


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
            sum(components_gib(work, chosen.token_budget, chosen.checkpoint_every, cuda=True).values())
        )
        assert chosen.fits == (sum(chosen.components_gib.values()) <= free)
    assert not seen[-1].fits


def test_packs_stop_growing_where_it_gains_nothing() -> None:
    assert fit(job("llava-1.5-7b", "align"), 78, cuda=True).token_budget == 8192
    assert fit(job("smol", "align"), 14, cuda=False).token_budget == 4096


def test_the_processor_has_no_cuda_context() -> None:
    assert "CUDA context" not in components_gib(job("smol", "align"), 4096, None, cuda=False)
