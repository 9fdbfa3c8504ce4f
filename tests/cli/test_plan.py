"""`qllava plan` as people run it: pages of 80 columns, JSON, and advice of which each line alone is enough."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from qllava_cli.main import main

from qllava.plan import device
from qllava.recipe import recipe_names
from tests.train.workspace import make_workspace


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, no card, no downloads."""
    device.nvidia_cards.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("QLLAVA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(["plan", "--json", *arguments]) == 0
    printed = capsys.readouterr()
    assert not printed.err
    found: list[dict[str, Any]] = json.loads(printed.out)
    return found


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_makes_two_pages_of_80_columns(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for more in (["--vram", "24"], ["--vram", "6"], ["--card", "rtx 3060", "--tflops", "12.5"]):
        assert main(["plan", "--recipe", name, *more]) == 0
        page = capsys.readouterr().out
        assert max(map(len, page.splitlines())) <= 80
        assert page.count("GiB  in all, of ") == 2
        assert ", stage 1 (align) on " in page
        assert ", stage 2 (finetune) on " in page


def test_the_page_of_llava_15(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--vram", "24", "--stage", "2"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("recipe llava-1.5-7b (auto: a card with 24 GB")
    for line in (
        "llava-1.5-7b, stage 2 (finetune) on a card with 24 GB\n",
        "     3.02 GiB  language model (NF4)\n",
        "     0.60 GiB  LoRA (fp32)\n",
        "     0.50 GiB  CUDA context\n",
        "    19.87 GiB  in all, of 24.0 free: fits\n",
        "\ncheckpointing  off\n",
        "\ntokens a pack  2,048; one picture is 576\n",
        "\nwork           23.4 TFLOP a sample\n",
        "  RTX 3090     24 GiB     1.8 h  checkpointing off\n",
    ):
        assert line in out


def test_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    align, finetune = planned(capsys, "--recipe", "llava-1.5-13b", "--vram", "24")
    keys = (
        "recipe stage device free_gib fits known checkpoint_every token_budget optimizer components_gib total_gib "
        "peak_gib image_tokens tokens_a_sample packed_tokens_a_sample lengths_from samples steps tflop_a_sample rate "
        "hours download_gb advice cards"
    )
    assert list(align) == list(finetune) == keys.split()
    assert (align["stage"], finetune["stage"]) == ("align", "finetune")
    assert finetune["fits"] is align["fits"] is True
    assert finetune["total_gib"] == pytest.approx(sum(finetune["components_gib"].values()))
    parts = finetune["components_gib"]
    outside = parts["CUDA context"] + parts["fragments and handles"] + parts["margin"]
    assert finetune["peak_gib"] == pytest.approx(finetune["total_gib"] - outside)
    assert [card["card"] for card in align["cards"]] == ["RTX 3060", "RTX 3090", "RTX 4090", "RTX 5090", "A100", "H100"]
    assert align["cards"][0]["rate"] == {
        "tflops": 12.75,
        "source": "RTX 3060 at 50% of its data sheet's 25.5 TFLOP/s",
    }


@pytest.mark.parametrize(
    ("recipe", "vram", "more"),
    [
        ("llava-1.5-13b", "13", []),
        ("llava-1.5-7b", "8", []),
        ("llava-1.5-7b", "8.5", ["--set", "lora.dropout=0.05"]),
        ("llava-1.5-7b", "12", ["--set", "model.quantization=none"]),
    ],
)
def test_each_change_alone_makes_it_fit(
    recipe: str, vram: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tight,) = planned(capsys, "--recipe", recipe, "--vram", vram, "--stage", "2", *more)
    assert not tight["fits"]
    assert len(tight["advice"]) > 1
    for change in tight["advice"]:
        words = change.split(" (")[0].split()
        if words[0] == "--lora-r":
            words = ["--set", f"lora.rank={words[1]}"]
        named = [] if words[0] == "--recipe" else ["--recipe", recipe]
        (changed,) = planned(capsys, *named, "--vram", vram, "--stage", "2", *more, *words)
        assert changed["fits"], change


def test_hours_follow_the_rate(capsys: pytest.CaptureFixture[str], nowhere: Path) -> None:
    make_workspace(nowhere)
    capsys.readouterr()
    (plan,) = planned(capsys, "--recipe", "llava-1.5-7b", "--vram", "24", "--stage", "2", "--tflops", "100")
    assert plan["rate"] == {"tflops": 100, "source": "--tflops 100"}
    assert plan["samples"] == 17
    assert plan["hours"] == pytest.approx(17 * plan["tflop_a_sample"] / 100 / 3600)


def test_lengths_come_from_the_data_and_shared_pictures_count_once(
    capsys: pytest.CaptureFixture[str], nowhere: Path
) -> None:
    make_workspace(nowhere)
    capsys.readouterr()
    align, finetune = planned(capsys, "--recipe", "llava-1.5-7b", "--vram", "24")
    # 8 captions of one picture each: nothing is shared.
    assert align["tokens_a_sample"] == align["packed_tokens_a_sample"]
    assert align["lengths_from"] == "8 of 8 samples, 4 characters taken for a token"
    # "a red picture\n" and the like: 14.5 characters in the mean, all of them text.
    assert align["tokens_a_sample"] == pytest.approx(576 + 14.75 / 4, abs=0.2)
    # 16 questions about 8 pictures, one text: half of picture and system prompt is saved.
    assert finetune["samples"] == 17
    assert finetune["tokens_a_sample"] - finetune["packed_tokens_a_sample"] > 0.5 * 576
    assert finetune["tflop_a_sample"] < 0.65 * 2 * align["tflop_a_sample"]


def test_the_recipes_own_tokenizer_counts_where_it_is_here(capsys: pytest.CaptureFixture[str], nowhere: Path) -> None:
    make_workspace(nowhere)
    capsys.readouterr()
    model = f"model.language_model={nowhere / 'models' / 'lm'}"
    tower = f"model.vision_tower={nowhere / 'models' / 'tower'}"
    (plan,) = planned(capsys, "--recipe", "smol", "--stage", "2", "--set", model, "--set", tower)
    assert plan["lengths_from"] == "17 of 17 samples, counted by the recipe's tokenizer"


def test_the_whole_command_loads_no_torch(nowhere: Path) -> None:
    make_workspace(nowhere)
    code = (
        "import sys; from qllava_cli.main import main;"
        "code = main(['plan', '--recipe', 'llava-1.5-7b', '--vram', '24', '--json']);"
        "print(code, sorted({'torch', 'datasets', 'bitsandbytes', 'trl'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--card", "Voodoo 2"], "--card 'Voodoo 2' is not in the table; use --vram GB with --tflops N, or one of RTX"),
        (["--data", "none.json"], "--data: none.json does not exist; name a data folder or file, or leave --data out"),
        (["--stage", "3"], "invalid value for '--stage'"),
        (["--tflops", "0"], "invalid value for '--tflops'"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--recipe", "llava-1.5-7b", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
