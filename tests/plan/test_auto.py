import re

import pytest

from qllava.errors import DeviceError
from qllava.plan.auto import BY_CARD_GB, choose_recipe
from qllava.plan.device import DeviceProbe
from qllava.recipe import recipe_names

GIB = 2**30


def cuda(total_mib: int, name: str = "NVIDIA GeForce RTX 4090", **changes: object) -> DeviceProbe:
    values: dict[str, object] = {"total_bytes": total_mib * 2**20, "free_bytes": total_mib * 2**20, "count": 1}
    return DeviceProbe(**({"kind": "cuda", "name": name, "capability": (8, 9)} | values | changes))  # type: ignore[arg-type]


NO_CARD = DeviceProbe("cpu", "CPU, 2 cores", 16 * GIB, 15 * GIB)


# MiB as nvidia-smi reports them for cards sold as 80, 24, 20, 16, 12, 10, 8 and 6 GB.
@pytest.mark.parametrize(
    ("total_mib", "recipe"),
    [
        (81559, "llava-1.5-7b"),
        (24564, "llava-1.5-7b"),
        (20475, "llava-1.5-7b"),
        (16380, "qwen2.5-3b"),
        (12288, "qwen2.5-3b"),
        (10240, "qwen2.5-3b"),
        (8192, "qwen2.5-1.5b"),
        (6144, "qwen2.5-1.5b"),
    ],
)
def test_the_cards_size_decides(total_mib: int, recipe: str) -> None:
    assert choose_recipe(cuda(total_mib)).name == recipe


def test_the_reason_is_said() -> None:
    choice = choose_recipe(cuda(24564))
    assert choice.why == "auto: NVIDIA GeForce RTX 4090, 24.0 GiB; llava-1.5-7b from 20 GB up"


def test_memory_in_use_does_not_change_the_recipe_between_the_stages() -> None:
    assert choose_recipe(cuda(24564, free_bytes=9 * GIB)).name == "llava-1.5-7b"


def test_a_small_card_is_an_error_with_the_fix() -> None:
    expected = (
        "NVIDIA GTX 1650 Ampere, 4.0 GiB: the smallest recipe (qwen2.5-1.5b) needs 6 GB; use a larger card, or "
        "--recipe smol for the embedded model"
    )
    with pytest.raises(DeviceError, match=re.escape(expected)):
        choose_recipe(cuda(4096, name="NVIDIA GTX 1650 Ampere"))


def test_no_card_takes_the_embedded_model() -> None:
    assert choose_recipe(NO_CARD) == ("smol", "auto: no NVIDIA card, so the embedded model")


def test_hidden_cards_are_named_in_the_reason() -> None:
    hidden = DeviceProbe("cpu", "CPU", GIB, GIB, note="CUDA_VISIBLE_DEVICES=-1 hides the NVIDIA cards")
    assert choose_recipe(hidden).why == "auto: CUDA_VISIBLE_DEVICES=-1 hides the NVIDIA cards, so the embedded model"


def test_a_broken_card_never_falls_to_the_embedded_model() -> None:
    broken = DeviceProbe("broken", "NVIDIA GeForce RTX 4090", 24 * GIB, 0, (8, 9), 1, problem="torch is a CPU build")
    with pytest.raises(DeviceError, match="RTX 4090 is present but cannot be used: torch is a CPU build"):
        choose_recipe(broken)


def test_turing_is_refused() -> None:
    turing = cuda(24576, name="NVIDIA TITAN RTX", capability=(7, 5), bf16=False)
    with pytest.raises(DeviceError, match=r"NVIDIA TITAN RTX \(compute capability 7.5\) has no bfloat16"):
        choose_recipe(turing)


@pytest.mark.parametrize(("vram", "recipe"), [(40, "llava-1.5-7b"), (16, "qwen2.5-3b"), (8, "qwen2.5-1.5b")])
def test_vram_caps_a_bigger_card(vram: float, recipe: str) -> None:
    choice = choose_recipe(cuda(24564), vram)
    assert choice.name == recipe
    assert ("capped" in choice.why) == (vram < 24)


def test_vram_below_the_smallest_recipe() -> None:
    with pytest.raises(DeviceError, match=r"24\.0 GiB, capped at 4\.0 by --vram: the smallest recipe"):
        choose_recipe(cuda(24564), 4)


def test_what_auto_takes_is_shipped() -> None:
    assert {name for _, name in BY_CARD_GB} | {"smol"} <= set(recipe_names())
