"""Real measuring steps of both contenders over tiny models: what they count is what the data holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPVisionConfig, LlamaConfig

from qllava.bench.data import write_data
from qllava.bench.ours import step_plan
from qllava.bench.spec import BenchSpec, Measured, Setting, read_measured, read_spec
from qllava.bench.worker import run_spec
from qllava.data.formats import load_conversations
from qllava.types import STAGE_FILES, Stage
from tests.tiny import SHAPE
from tests.train.workspace import tiny_recipe

BATCH, STEPS = 4, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and two models of which there are only the dimensions."""
    home = tmp_path_factory.mktemp("bench")
    LlamaConfig(**SHAPE, vocab_size=1024, tie_word_embeddings=True).save_pretrained(home / "models" / "lm")
    tower = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8}
    CLIPVisionConfig(**tower, num_attention_heads=1).save_pretrained(home / "models" / "tower")
    for stage in ("align", "finetune"):
        write_data(home / "data", stage=stage, samples=BATCH * (STEPS + 2), longest=100)
    return home


def spec(folder: Path, stage: Stage, setting: Setting, **changes: Any) -> BenchSpec:
    recipe = tiny_recipe(folder, data={"max_length": 1024, "workers": 0}).model_dump(mode="json")
    values: dict[str, Any] = {
        "recipe": recipe,
        "stage": stage,
        "setting": setting,
        "steps": STEPS,
        "batch_size": BATCH,
        "device": "cpu",
        "vram_gib": None,
        "random_weights": True,
        "data": str(folder / "data"),
    }
    return BenchSpec(**{**values, **changes})


def images(work: BenchSpec) -> list[tuple[str, ...]]:
    conversations = load_conversations(Path(work.data) / STAGE_FILES[work.stage])
    plan = step_plan(work)
    return [conversations[i].images for step in range(1, STEPS + 1) for i in plan.members(step)]


@pytest.mark.parametrize("stage", ["align", "finetune"])
def test_both_contenders_train_the_same_samples(folder: Path, stage: Stage) -> None:
    ours = run_spec(spec(folder, stage, Setting("qllava", "ours")))
    alone = run_spec(spec(folder, stage, Setting("qllava", "alone", pack=False)))
    stock = run_spec(spec(folder, stage, Setting("trl", "trl", micro_batch=2, checkpointing=False, autocast=False)))
    for measured in (ours, alone, stock):
        assert measured.samples == BATCH * STEPS
        assert measured.seconds > 0
        assert measured.samples_per_second == measured.samples / measured.seconds
        assert measured.peak_bytes > 2**26
        assert not measured.out_of_memory
    assert ours.supervised_tokens == alone.supervised_tokens == stock.supervised_tokens
    # The same loss over the same samples with the same fresh weights: TRL's LoRA and projector are rounded to bf16.
    assert ours.loss == pytest.approx(alone.loss, rel=1e-4)
    assert stock.loss == pytest.approx(alone.loss, rel=0.05)
    shown = images(spec(folder, stage, Setting("qllava", "ours")))
    assert (ours.pictures, alone.pictures) == (len(set(shown)), len(shown))
    # Sharing saves tokens, padding adds some.
    saved = ours.pictures < alone.pictures
    assert (ours.tokens < alone.tokens) == saved == (stage == "finetune")
    assert stock.tokens > alone.tokens


def test_a_profile_shares_out_the_whole_step(folder: Path) -> None:
    work = spec(folder, "finetune", Setting("qllava", "ours"), profile=True)
    measured = run_spec(work)
    assert measured.samples == BATCH * STEPS  # the profiled step is not counted
    assert sum(measured.shares.values()) == pytest.approx(1)
    assert set(measured.shares) == {"NF4 dequantisation", "GEMM", "attention", "elementwise", "head", "optimizer"}
    assert all(share > 0 for share in measured.shares.values())


def test_trl_at_its_defaults_recomputes_and_casts(folder: Path) -> None:
    measured = run_spec(spec(folder, "finetune", Setting("trl", "trl, defaults", micro_batch=BATCH), steps=1))
    assert measured.samples == BATCH


def test_a_process_of_its_own(folder: Path, tmp_path: Path) -> None:
    work = spec(folder, "align", Setting("qllava", "ours"), steps=1)
    work.write(tmp_path / "spec.json")
    assert read_spec(tmp_path / "spec.json") == work
    command = [sys.executable, "-m", "qllava.bench.worker", str(tmp_path / "spec.json"), str(tmp_path / "result.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    measured = read_measured(tmp_path / "result.json")
    assert (measured.samples, measured.out_of_memory) == (BATCH, False)
    assert not (tmp_path / "result.tmp").exists()


def test_out_of_memory_is_no_speed() -> None:
    assert Measured(out_of_memory=True).samples_per_second == 0.0
