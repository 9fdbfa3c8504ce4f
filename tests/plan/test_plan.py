import sys
from pathlib import Path

import pytest

from qllava.errors import DeviceError
from qllava.plan.describe import describe, hours_text, policy_text
from qllava.plan.device import DeviceProbe
from qllava.plan.plan import Plan, make_plan
from qllava.plan.time import device_rate
from qllava.plan.work import Lengths, Sharing, StageText
from qllava.recipe import load_recipe, recipe_names
from qllava.types import Stage

GIB = 2**30
STAGES: tuple[Stage, ...] = ("align", "finetune")
CPU = DeviceProbe("cpu", "CPU, 2 cores", 16 * GIB, 15 * GIB)


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def card(gib: float, name: str = "NVIDIA GeForce RTX 4090", held: float = 0.3) -> DeviceProbe:
    return DeviceProbe("cuda", name, int(gib * GIB), int((gib - held) * GIB), (8, 9), 1)


def lines(plan: Plan, why: str = "") -> str:
    return "\n".join(" | ".join(line) for line in describe(plan, why))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_plans_and_fits_the_card_it_names(name: str, stage: Stage) -> None:
    recipe = load_recipe(name)
    words = recipe.description.rsplit("; ", 1)[-1].split()
    probe = card(float(words[0]) * 0.985) if words[-1] == "GB" else CPU
    plan = make_plan(recipe, stage, probe, samples=500_000)
    assert plan.fits, plan.components_gib
    assert plan.known
    assert plan.advice == []
    assert plan.token_budget >= recipe.data.max_length
    assert plan.total_gib is not None
    assert 0 < plan.total_gib <= plan.free_gib
    assert plan.hours is not None
    assert plan.download_gb is not None
    assert "DOES NOT" not in lines(plan)


def test_planning_loads_no_torch() -> None:
    import subprocess

    code = (
        "import sys; from qllava.plan.plan import make_plan; from qllava.plan.describe import describe;"
        "from qllava.plan.device import DeviceProbe; from qllava.recipe import load_recipe;"
        "p = DeviceProbe('cuda', 'NVIDIA A10', 23 * 2**30, 22 * 2**30, (8, 6), 1);"
        "describe(make_plan(load_recipe('llava-1.5-7b'), 'finetune', p, 1000));"
        "print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_dry_run_of_llava_15_prints_everything() -> None:
    text = lines(make_plan(load_recipe("llava-1.5-7b"), "finetune", card(24), samples=158_000), "as asked")
    for expected in (
        "device | NVIDIA GeForce RTX 4090 |",
        "recipe | llava-1.5-7b | as asked | --recipe",
        "download | 15.2 GB |",
        "samples | 158,000",
        "batch | 128 |",
        "steps | 1,235 | one epoch",
        "learning rate | 0.0002 | cosine | --lr",
        "projector learning rate | 2e-05",
        "LoRA rank | 64",
        "LoRA alpha | 128 | 2 x rank",
        "checkpointing | off | all activations fit",
        "one picture is 576",
        "memory: | 3.02 GiB language model (NF4)",
        " GiB activations",
        "| fits |",
        "RTX 4090 at 50% of its data sheet's 165 TFLOP/s",
    ):
        assert expected in text, text


def test_hours_follow_samples_and_recomputation() -> None:
    plan = make_plan(load_recipe("llava-1.5-7b"), "finetune", card(24), samples=158_000)
    # 23.4 TFLOP a sample at half of 165 TFLOP/s.
    assert plan.hours == pytest.approx(158_000 * 23.4 / 82.5 / 3600, rel=0.01)
    capped = load_recipe("llava-1.5-7b", [{"finetune": {"max_steps": 10}}])
    short = make_plan(capped, "finetune", card(24), samples=158_000)
    assert short.hours == pytest.approx(10 * 128 * 23.4 / 82.5 / 3600, rel=0.01)


def test_without_data_the_rate_is_still_said() -> None:
    plan = make_plan(load_recipe("llava-1.5-7b"), "align", card(24))
    assert (plan.samples, plan.steps, plan.hours, plan.share) == (None, None, None, None)
    assert "unknown until there is data" in lines(plan)
    assert "per 10,000 samples" in lines(plan)


def test_a_step_cap_says_the_share_of_the_data() -> None:
    plan = make_plan(load_recipe("smol", [{"align": {"max_steps": 60, "batch_size": 16}}]), "align", CPU, samples=9600)
    assert (plan.steps, plan.share) == (60, pytest.approx(0.1))
    assert "steps | 60 | a cap: 10% of the data | --max-steps" in lines(plan)


def test_a_cap_above_an_epoch_does_not_lengthen_it() -> None:
    recipe = load_recipe("smol", [{"align": {"max_steps": 60, "batch_size": 16}}])
    plan = make_plan(recipe, "align", CPU, samples=100)
    assert (plan.steps, plan.share) == (7, 1.0)


def test_a_7b_on_the_processor_is_planned_and_advised_against() -> None:
    plan = make_plan(load_recipe("llava-1.5-7b"), "align", CPU, samples=1000)
    assert plan.advice[0] == "no NVIDIA card here: --vram 24 plans for one, --recipe smol trains on this machine"


def test_vram_without_a_card_plans_for_one() -> None:
    plan = make_plan(load_recipe("llava-1.5-7b"), "finetune", CPU, samples=1000, vram_gib=24)
    assert (plan.hypothetical, plan.free_gib, plan.fits, plan.advice) == (True, 24, True, [])
    assert "CUDA context" in plan.components_gib
    assert "device | a card with 24 GB | --vram; there is no NVIDIA card here" in lines(plan)
    assert plan.rate == (82.5, "RTX 4090 at 50% of its data sheet's 165 TFLOP/s")


def test_vram_caps_what_is_free() -> None:
    plan = make_plan(load_recipe("llava-1.5-7b"), "finetune", card(79, "NVIDIA H100 80GB HBM3"), vram_gib=24)
    assert plan.free_gib == 24
    assert plan.total_gib is not None
    assert plan.total_gib <= 24


def test_what_does_not_fit_says_the_cheapest_changes_in_order() -> None:
    plan = make_plan(load_recipe("llava-1.5-13b"), "finetune", card(14), samples=1000)
    assert not plan.fits
    assert plan.advice == [
        "--set data.max_length=1024 (longer samples are cut at a turn)",
        "--lora-r 32",
        "--recipe llava-1.5-7b",
    ]
    assert "DOES NOT FIT" in lines(plan)
    assert "to make it fit | --lora-r 32" in lines(plan)
    changed = load_recipe("llava-1.5-13b", [{"lora": {"rank": 32}}])
    assert make_plan(changed, "finetune", card(14)).fits


def test_other_programs_on_the_card_are_the_first_thing_to_change() -> None:
    plan = make_plan(load_recipe("llava-1.5-7b"), "finetune", card(24, held=15))
    assert not plan.fits
    assert plan.advice[0] == "other programs hold 15.0 GiB of the card: close them (nvidia-smi names them)"


def test_a_card_too_small_for_anything() -> None:
    plan = make_plan(load_recipe("llava-1.5-7b"), "finetune", card(1))
    assert plan.advice == ["nothing fits: use a larger card"]


def test_an_unknown_model_is_planned_carefully_and_said() -> None:
    recipe = load_recipe("llava-1.5-7b", [{"model": {"language_model": "someone/model"}}])
    plan = make_plan(recipe, "align", card(24), samples=1000)
    assert (plan.known, plan.fits, plan.checkpoint_every, plan.token_budget) == (False, True, 1, 2048)
    assert (plan.components_gib, plan.hours, plan.download_gb) == ({}, None, None)
    assert "someone/model + openai/clip-vit-large-patch14-336 are known only after the download" in plan.advice[0]
    assert "size unknown" in lines(plan)


@pytest.mark.parametrize("stage", STAGES)
def test_unusable_cards_are_refused(stage: Stage) -> None:
    broken = DeviceProbe("broken", "NVIDIA A10", 0, 0, problem="no driver")
    turing = DeviceProbe("cuda", "Tesla T4", 16 * GIB, 15 * GIB, (7, 5), 1, bf16=False)
    for probe in (broken, turing):
        with pytest.raises(DeviceError):
            make_plan(load_recipe("qwen2.5-3b"), stage, probe)


def test_the_datas_own_lengths_can_be_given() -> None:
    recipe = load_recipe("smol")
    short = make_plan(recipe, "finetune", CPU, 5000, lengths=Lengths(StageText(10, 2), Sharing(), "read"))
    long = make_plan(recipe, "finetune", CPU, 5000, lengths=Lengths(StageText(100, 50), Sharing(), "read"))
    assert short.hours is not None
    assert long.hours is not None
    assert short.hours < long.hours


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA GeForce RTX 4090", 82.5),
        ("NVIDIA GeForce RTX 3080 Ti", 34.0),
        ("NVIDIA GeForce RTX 3060", 12.75),
        ("NVIDIA A100-SXM4-80GB", 156.0),
        ("NVIDIA A10", 62.5),
        ("NVIDIA H100 80GB HBM3", 494.5),
        ("NVIDIA H100 PCIe", 378.0),
    ],
)
def test_rates_by_the_cards_name(name: str, tflops: float) -> None:
    rate = device_rate(card(24, name))
    assert rate is not None
    assert rate.tflops == tflops


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA Future", "NVIDIA A100X"])
def test_cards_without_a_known_rate(name: str) -> None:
    assert device_rate(card(24, name)) is None
    assert "is not in the table" in lines(make_plan(load_recipe("llava-1.5-7b"), "align", card(24, name)))


def test_words() -> None:
    assert [policy_text(every) for every in (None, 1, 2, 3, 4)] == [
        "off",
        "every layer",
        "every 2nd layer",
        "every 3rd layer",
        "every 4th layer",
    ]
    assert [hours_text(hours) for hours in (0.001, 0.5, 1, 12.34)] == ["1 min", "30 min", "1.0 h", "12.3 h"]
