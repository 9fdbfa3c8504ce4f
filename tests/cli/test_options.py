import re
from pathlib import Path

import pytest
from qllava_cli.options import resolve_recipe

from qllava.errors import DeviceError, RecipeError
from qllava.plan.device import DeviceProbe

GIB = 2**30
CPU = DeviceProbe("cpu", "CPU, 2 cores", 16 * GIB, 15 * GIB)
CARD = DeviceProbe("cuda", "NVIDIA GeForce RTX 4090", 24 * GIB, 23 * GIB, (8, 9), 1)


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_auto_without_anything() -> None:
    resolved = resolve_recipe(None, [], probe=CPU)
    assert (resolved.recipe.name, resolved.why) == ("smol", "auto: no NVIDIA card, so the embedded model")


@pytest.mark.parametrize("name", [None, "auto"])
def test_auto_looks_at_the_card_and_its_cap(name: str | None) -> None:
    assert resolve_recipe(name, probe=CARD).recipe.name == "llava-1.5-7b"
    assert resolve_recipe(name, probe=CARD, vram_gib=12).recipe.name == "qwen2.5-3b"


def test_a_named_recipe_needs_no_probe() -> None:
    broken = DeviceProbe("broken", "NVIDIA A10", 0, 0, problem="no driver")
    resolved = resolve_recipe("llava-1.5-13b", probe=broken)
    assert (resolved.recipe.name, resolved.why) == ("llava-1.5-13b", "as asked")
    with pytest.raises(DeviceError, match="no driver"):
        resolve_recipe(probe=broken)


def test_precedence(directory: Path) -> None:
    (directory / "qllava.yaml").write_text("recipe: smol\nteacher: template\nseed: 1\nlora: {rank: 8, dropout: 0.1}\n")
    resolved = resolve_recipe(None, [], {})
    assert resolved.why == "qllava.yaml"
    assert (resolved.recipe.name, resolved.recipe.seed, resolved.recipe.lora.rank) == ("smol", 1, 8)
    assigned = resolve_recipe(None, ["lora.rank=16"], {"seed": None}).recipe
    assert (assigned.seed, assigned.lora.rank, assigned.lora.dropout) == (1, 16, 0.1)
    flagged = resolve_recipe(None, ["lora.rank=16"], {"lora.rank": 4, "seed": 9, "align.learning_rate": None}).recipe
    assert (flagged.seed, flagged.lora.rank, flagged.lora.dropout) == (9, 4, 0.1)


def test_the_flag_beats_the_project_files_recipe_and_keeps_its_settings(directory: Path) -> None:
    (directory / "qllava.yaml").write_text("recipe: smol\nseed: 1\n")
    resolved = resolve_recipe("qwen2.5-3b")
    assert (resolved.recipe.name, resolved.recipe.seed, resolved.why) == ("qwen2.5-3b", 1, "as asked")


def test_the_project_file_may_say_auto_or_only_settings(directory: Path) -> None:
    (directory / "qllava.yaml").write_text("recipe: auto\n")
    assert resolve_recipe(probe=CPU).recipe.name == "smol"
    (directory / "qllava.yaml").write_text("seed: 5\n")
    assert resolve_recipe(probe=CPU).recipe.seed == 5


@pytest.mark.parametrize(
    ("project", "assignments", "flags", "said"),
    [
        ("lora: {rnk: 3}", [], {}, "qllava.yaml: unknown key 'lora.rnk'; did you mean lora.rank?"),
        ("seed: 1", ["lora.rnk=3"], {}, "--set: unknown key 'lora.rnk'; did you mean lora.rank?"),
        ("seed: 1", [], {"lora.rank": 0}, "flags: lora.rank=0: input should be greater than or equal to 1"),
    ],
)
def test_a_mistake_is_reported_where_it_was_made(
    directory: Path, project: str, assignments: list[str], flags: dict[str, object], said: str
) -> None:
    (directory / "qllava.yaml").write_text(f"recipe: smol\n{project}\n")
    with pytest.raises(RecipeError, match=re.escape(said)):
        resolve_recipe(None, assignments, flags)


def test_a_recipe_file_of_ones_own(directory: Path) -> None:
    (directory / "mine.yaml").write_text("extends: smol\nseed: 3\n")
    assert resolve_recipe("mine.yaml").recipe.seed == 3
    (directory / "qllava.yaml").write_text("recipe: mine.yaml\n")
    assert resolve_recipe().recipe.name == "mine"
