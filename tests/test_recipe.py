import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from qllava.data.chat_template import load_chat_template
from qllava.errors import RecipeError
from qllava.recipe import (
    Recipe,
    load_recipe,
    merge,
    parse_assignments,
    project_overrides,
    read_recipe,
    recipe_names,
    recipe_path,
)


def fails(text: str) -> Any:
    return pytest.raises(RecipeError, match=re.escape(text))


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


SHIPPED = {
    "llama-3.1-8b",
    "llava-1.5-13b",
    "llava-1.5-7b",
    "llava-v1-7b",
    "llava-v1-7b-scienceqa",
    "mistral-7b",
    "qwen2.5-1.5b",
    "qwen2.5-3b",
    "qwen2.5-7b",
    "qwen2.5-7b-siglip",
    "smol",
}


def test_what_ships() -> None:
    assert set(recipe_names()) == SHIPPED


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_recipe_loads_is_described_and_headed_by_its_commands(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    command = f"\n#   qllava train --recipe {name} --stage"
    assert f"{command} 1{command} 2\n# Needs" in recipe_path(name).read_text()


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_to_yaml_loads_back_to_an_equal_recipe(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert load_recipe(write(tmp_path / "copy.yaml", recipe.to_yaml())) == recipe


@pytest.mark.parametrize("name", sorted(SHIPPED - {"smol", "llava-v1-7b", "llava-v1-7b-scienceqa"}))
def test_the_values_of_llava_15(name: str) -> None:
    recipe = load_recipe(name)
    assert (recipe.align.learning_rate, recipe.align.batch_size, recipe.align.epochs) == (1e-3, 256, 1)
    finetune = recipe.finetune
    assert (finetune.learning_rate, finetune.projector_learning_rate) == (2e-4, 2e-5)
    assert (finetune.batch_size, finetune.epochs, finetune.max_steps) == (128, 1, None)
    for stage in (recipe.align, finetune):
        assert (stage.scheduler, stage.warmup_ratio, stage.weight_decay) == ("cosine", 0.03, 0.0)
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.lora.scaling_alpha, recipe.lora.dropout) == (64, None, 128, 0)
    assert recipe.data.max_length == (1536 if name == "qwen2.5-1.5b" else 2048)
    assert (recipe.model.projector, recipe.model.feature_layer, recipe.align_template) == ("mlp2x_gelu", -2, "plain")


def test_the_first_papers_recipe() -> None:
    recipe = load_recipe("llava-v1-7b")
    model = recipe.model
    assert (model.vision_tower, model.projector, model.feature_layer) == ("openai/clip-vit-large-patch14", "linear", -2)
    assert (recipe.template, recipe.align_template, recipe.data.image_aspect) == ("llava_v0", "chat", "crop")
    assert (recipe.align.learning_rate, recipe.align.batch_size) == (2e-3, 128)


def test_the_first_papers_scienceqa_recipe() -> None:
    base, recipe = load_recipe("llava-v1-7b"), load_recipe("llava-v1-7b-scienceqa")
    assert (recipe.finetune.epochs, recipe.finetune.batch_size) == (12, 32)
    assert (recipe.model, recipe.align, recipe.data, recipe.lora) == (base.model, base.align, base.data, base.lora)
    assert recipe.finetune.learning_rate == base.finetune.learning_rate
    # QCM-LEPA holds "###", which may not end a turn.
    stop = load_chat_template(recipe.template).stop
    assert stop
    assert not any(text in "###" or "###" in text for text in stop)


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("llava-1.5-13b", "vicuna_v1"),
        ("llama-3.1-8b", "llama3"),
        ("mistral-7b", "mistral"),
        ("qwen2.5-3b", "chatml"),
        ("smol", "chatml"),
    ],
)
def test_templates(name: str, template: str) -> None:
    assert load_recipe(name).template == template


def test_a_siglip_tower_keeps_all_its_patches() -> None:
    for name in SHIPPED:
        model = load_recipe(name).model
        assert model.patches == ("full" if "siglip" in model.vision_tower else "default")


def test_lora_r_alone_keeps_alpha_at_twice_the_rank() -> None:
    lora = load_recipe("llava-1.5-7b", [{"lora": {"rank": 16}}]).lora
    assert (lora.rank, lora.scaling_alpha) == (16, 32)
    assert load_recipe("llava-1.5-7b", [{"lora": {"rank": 16, "alpha": 8}}]).lora.scaling_alpha == 8


def test_later_overrides_win() -> None:
    recipe = load_recipe("smol", [{"seed": 1, "lora": {"rank": 4}}, {"seed": 2}])
    assert (recipe.seed, recipe.lora.rank) == (2, 4)


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_recipe("smol").seed = 3


# Names and paths


def test_an_unknown_recipe_names_the_closest() -> None:
    with fails("unknown recipe 'llava-1.5-7'; did you mean llava-1.5-7b? `qllava recipes list`") as caught:
        load_recipe("llava-1.5-7")
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_without_a_close_one_lists_all() -> None:
    with fails("unknown recipe 'x'; `qllava recipes list` shows all: llama-3.1-8b, "):
        load_recipe("x")


@pytest.mark.parametrize("name", ["../recipes/smol", "", "/etc/passwd"])
def test_a_name_is_no_path(name: str) -> None:
    with fails(f"unknown recipe {name!r}"):
        load_recipe(name)


def test_a_missing_file() -> None:
    with fails("recipe file mine.yaml does not exist; `qllava recipes list` shows the shipped ones"):
        load_recipe("mine.yaml")


# Keys and values


@pytest.mark.parametrize(
    ("key", "close"),
    [
        ("lora.rnk", "lora.rank"),
        ("align.lerning_rate", "align.learning_rate"),
        ("modle", "model"),
        ("data.maxlength", "data.max_length"),
    ],
)
def test_a_typo_names_the_closest_key(key: str, close: str) -> None:
    with fails(f"recipe smol: unknown key {key!r}; did you mean {close}?"):
        load_recipe("smol", [parse_assignments([f"{key}=1"])])


def test_a_key_like_no_other() -> None:
    with fails("unknown key 'zzz'; `qllava recipes show smol` lists the keys"):
        load_recipe("smol", [{"zzz": 1}])


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("lora.rank=0", "lora.rank=0: input should be greater than or equal to 1"),
        ("lora.dropout=1", "lora.dropout=1: input should be less than 1"),
        ("align.learning_rate=-1e-3", "align.learning_rate=-0.001: input should be greater than 0"),
        ("align.learning_rate=.inf", "align.learning_rate=inf: input should be a finite number"),
        ("align.batch_size=many", "align.batch_size='many': input should be a valid integer"),
        ("model.projector=mlp3x", "model.projector='mlp3x': input should be 'linear' or 'mlp2x_gelu'"),
        ("lora=5", "lora=5: input should be a valid dictionary"),
    ],
)
def test_values_out_of_range(assignment: str, said: str) -> None:
    with fails(f"recipe smol: {said}"):
        load_recipe("smol", [parse_assignments([assignment])])


def test_a_missing_key(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", "template: chatml\n")
    with fails("key 'model' is missing; add it or `extends: llava-1.5-7b`"):
        load_recipe(path)


# Files


@pytest.mark.parametrize(("text", "line"), [("model: [1, 2\nlora: }", 2), ("a: b: c\n", 1)])
def test_bad_yaml_names_file_and_line(tmp_path: Path, text: str, line: int) -> None:
    path = write(tmp_path / "bad.yaml", text)
    with fails(f"{path} line {line} is not readable YAML; compare with `qllava recipes show smol`"):
        load_recipe(path)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00name")
    with fails("is not readable YAML"):
        load_recipe(str(tmp_path / "bad.yaml"))


def test_a_list_is_no_recipe(tmp_path: Path) -> None:
    path = write(tmp_path / "list.yaml", "- a\n- b\n")
    with fails(f"{path} holds list, not `key: value` lines"):
        load_recipe(path)


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    path = write(tmp_path / "evil.yaml", "name: !!python/object/apply:os.getcwd []\n")
    with fails("is not readable YAML"):
        load_recipe(path)


# extends


def test_a_file_extends_a_shipped_recipe_and_a_file_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "extends: smol\nseed: 7\nlora: {rank: 8}\n")
    child = load_recipe(write(tmp_path / "child.yaml", "extends: base\nlora: {dropout: 0.1}\n"))
    assert (child.name, child.seed, child.lora.rank, child.lora.dropout) == ("child", 7, 8, 0.1)
    by_file_name = load_recipe(write(tmp_path / "other.yaml", "extends: base.yaml\n"))
    assert by_file_name.seed == 7


def test_a_file_may_extend_the_shipped_recipe_of_its_own_name(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path / "smol.yaml", "extends: smol\nseed: 7\n"))
    assert (recipe.seed, recipe.model) == (7, load_recipe("smol").model)


def test_a_circle_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "extends: b\n")
    write(tmp_path / "b.yaml", "extends: a\n")
    with fails("`extends` goes in a circle; remove one of them"):
        load_recipe(str(tmp_path / "a.yaml"))


def test_an_unknown_parent(tmp_path: Path) -> None:
    with fails("unknown recipe 'smoll'; did you mean smol?"):
        load_recipe(write(tmp_path / "a.yaml", "extends: smoll\n"))


def test_bases_are_no_recipes_but_can_be_read() -> None:
    assert not any(name.startswith("_") for name in recipe_names())
    assert read_recipe("_lora-7b")["lora"] == {"rank": 64, "dropout": 0.0}


# qllava.yaml, --set


def test_no_project_file_is_no_override(tmp_path: Path) -> None:
    assert project_overrides(tmp_path) == {}
    write(tmp_path / "qllava.yaml", "# nothing yet\n")
    assert project_overrides(tmp_path) == {}
    write(tmp_path / "qllava.yaml", "recipe: smol\nlora: {rank: 8}\n")
    assert project_overrides(tmp_path) == {"recipe": "smol", "lora": {"rank": 8}}


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("lora.rank=16", {"lora": {"rank": 16}}),
        (" lora.rank =16", {"lora": {"rank": 16}}),
        ("align.learning_rate=1e-3", {"align": {"learning_rate": 1e-3}}),
        ("align.learning_rate=1.5E+3", {"align": {"learning_rate": 1500.0}}),
        ("lora.alpha=null", {"lora": {"alpha": None}}),
        ("lora.alpha=", {"lora": {"alpha": None}}),
        ("description=a=b", {"description": "a=b"}),
        ("lora={rank: 8, dropout: 1e-1}", {"lora": {"rank": 8, "dropout": 0.1}}),
        # Only an exponent makes a word a number.
        ("name=nan", {"name": "nan"}),
        ("name=infinity", {"name": "infinity"}),
        ("name='7'", {"name": "7"}),
        ("name=1_000e", {"name": "1_000e"}),
    ],
)
def test_assignments(assignment: str, value: dict[str, Any]) -> None:
    assert parse_assignments([assignment]) == value


def test_assignments_are_merged_in_order() -> None:
    given = ["lora.rank=8", "lora.dropout=0.1", "lora.rank=4"]
    assert parse_assignments(given) == {"lora": {"rank": 4, "dropout": 0.1}}


@pytest.mark.parametrize("assignment", ["lora.rank", "", "=3", " =3"])
def test_what_is_no_assignment(assignment: str) -> None:
    with fails(f"--set {assignment!r} is not KEY=VALUE; write for example --set lora.rank=16"):
        parse_assignments([assignment])


def test_an_unreadable_value() -> None:
    with fails("--set 'name={a' : the value".replace(" :", ":")):
        parse_assignments(["name={a"])


def test_merging_changes_neither_side() -> None:
    base, over = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "d": {"e": 1}}
    assert merge(base, over) == {"a": {"b": 9, "c": 2}, "d": {"e": 1}}
    assert (base, over) == ({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "d": {"e": 1}})


def test_to_yaml_holds_every_setting() -> None:
    assert set(yaml.safe_load(load_recipe("smol").to_yaml())) == set(Recipe.model_fields)
