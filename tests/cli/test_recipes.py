from pathlib import Path

import pytest
import yaml
from qllava_cli.main import main

from qllava.recipe import load_recipe, recipe_names, recipe_path


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_list_names_every_recipe_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "list"]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == recipe_names()
    assert err == ""


def test_show_prints_the_file_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "show", "llava-v1-7b"]) == 0
    assert capsys.readouterr().out == recipe_path("llava-v1-7b").read_text()


@pytest.mark.parametrize(
    "flags", [["--resolved"], ["--set", "lora.rank=16"], ["--set", "seed=3", "--set=lora.rank=16"]]
)
def test_show_resolved_prints_every_setting(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "show", "qwen2.5-3b", *flags]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    assert values["model"]["vision_tower"] == "openai/clip-vit-large-patch14-336"
    assert values["lora"]["rank"] == (64 if flags == ["--resolved"] else 16)


def test_a_typo_in_a_key_is_one_line_and_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "show", "smol", "--set", "lora.rnk=3"]) == 2
    assert capsys.readouterr().err == "error: recipe smol: unknown key 'lora.rnk'; did you mean lora.rank?\n"


def test_copy_writes_a_recipe_that_loads(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "copy", "smol", "mine.yaml"]) == 0
    copied = load_recipe("mine.yaml")
    assert copied == load_recipe("smol").model_copy(update={"name": "mine"})
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "wrote mine.yaml; use it with --recipe mine.yaml or `recipe: mine.yaml` in qllava.yaml\n"
    assert (directory / "mine.yaml").read_text().startswith("# A copy of the recipe smol, to change.")


def test_copy_without_a_name_keeps_the_recipes(directory: Path) -> None:
    assert main(["recipes", "copy", "smol"]) == 0
    assert load_recipe("smol.yaml") == load_recipe("smol")


def test_copy_replaces_nothing_unasked(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "mine.yaml").write_text("seed: 1\n")
    assert main(["recipes", "copy", "smol", "mine.yaml"]) == 2
    assert capsys.readouterr().err == "error: mine.yaml is there already; choose another name or add --force\n"
    assert (directory / "mine.yaml").read_text() == "seed: 1\n"
    assert main(["recipes", "copy", "smol", "mine.yaml", "--force"]) == 0


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("mine", "error: mine is not a YAML file name; write for example mine.yaml\n"),
        ("no/mine.yaml", "error: folder no does not exist; make it first\n"),
    ],
)
def test_copy_to_nowhere(target: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "copy", "smol", target]) == 2
    assert capsys.readouterr().err == said
