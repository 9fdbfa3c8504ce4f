"""The whole benchmark: what the command prints, and the figures it is made of."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from qllava_cli.main import main
from transformers import CLIPVisionConfig, LlamaConfig

from qllava.bench.page import bench_page
from qllava.bench.profiling import kind_of, time_shares
from qllava.bench.run import DEFAULT, OURS, BenchRequest, BenchResult, Row, _best_candidates, result_json
from qllava.bench.spec import Measured, Setting
from qllava.plan import device
from qllava.plan.device import DeviceProbe
from qllava.recipe import load_recipe
from tests.tiny import SHAPE
from tests.train.workspace import tiny_recipe

CPU = DeviceProbe("cpu", "CPU, 2 cores", 16 * 2**30, 15 * 2**30)


def request(**changes: object) -> BenchRequest:
    values: dict[str, object] = {
        "recipe": load_recipe("smol"),
        "stage": "finetune",
        "probe": CPU,
        "steps": 2,
        "batch_size": 8,
        "rounds": 3,
        "vram_gib": None,
        "random_weights": True,
        "pack": True,
        "against_trl": True,
        "profile": False,
    }
    return BenchRequest(**{**values, **changes})  # type: ignore[arg-type]


def turn(seconds: float, **changes: object) -> Measured:
    values: dict[str, object] = {
        "seconds": seconds,
        "samples": 16,
        "pictures": 8,
        "tokens": 8000,
        "supervised_tokens": 3600,
        "peak_bytes": int(seconds * 2**30),
    }
    return Measured(**{**values, **changes})  # type: ignore[arg-type]


def result(default: Row | None, best: Row | None, tried: list[Row]) -> BenchResult:
    ours = Row(OURS, [turn(2.0, matmul_tflops=0.1), turn(1.0, matmul_tflops=0.05), turn(4.0)])
    return BenchResult(request(), ours, default, best, tried, 0.005, 2.5)


def test_ratios_are_medians_over_rounds_not_of_different_moments() -> None:
    best = Row(Setting("trl", "trl, best (batch 2, no recomputation)"), [turn(6.0), turn(2.0), turn(16.0)])
    found = result(Row(DEFAULT, [turn(8.0), turn(8.0), turn(8.0)]), best, [])
    assert found.ratio(found.default) == pytest.approx(4.0)  # of 4, 8, 2
    assert found.ratio(found.best) == pytest.approx(3.0)  # of 3, 2, 4
    assert found.ours.middle.seconds == 2.0
    assert found.ours.peak_bytes == 4 * 2**30
    assert found.share_of_rate == pytest.approx(8 * 0.005 / 0.1)
    assert found.ratio(None) is None


def test_the_page_has_80_columns_and_every_figure() -> None:
    default = Row(DEFAULT, [Measured(out_of_memory=True)] * 3)
    name = "trl, best (batch 8, no recomputation, fp32)"
    best = Row(Setting("trl", name, micro_batch=8), [turn(6.0)] * 3)
    page = bench_page(result(default, best, [best, Row(replace_batch(best, 4), [turn(12.0)])]))
    assert max(map(len, page.splitlines())) <= 80
    for expected in (
        "smol, stage finetune, on CPU, 2 cores",
        "2 steps of 8 samples, 3 rounds, median",
        f"{'trl, defaults':<44}{'out of memory':>36}",
        "TRL at its defaults ran out of memory",
        "3.00 x the samples a second of TRL at its best setting",
        "TRL's samples/s by batch, no recomputation: 8: 2.67, 4: 1.33",
        "peak 4.00 GiB; the planner said 2.50",
    ):
        assert expected in page, page
    assert name in page


def replace_batch(row: Row, size: int) -> Setting:
    from dataclasses import replace

    return replace(row.setting, micro_batch=size)


def test_the_json_holds_ratios_peaks_machine_and_versions() -> None:
    found = result_json(result(Row(DEFAULT, [turn(8.0)] * 3), None, []))
    assert (found["ratio_default"], found["ratio_best"]) == (pytest.approx(4.0), None)
    assert [row["peak_bytes"] for row in found["contenders"]] == [4 * 2**30, 8 * 2**30]
    assert found["contenders"][1]["settings"] == {"micro_batch": 8, "checkpointing": True, "bf16": True}
    assert found["contenders"][0]["samples_per_second"] == 8.0
    assert set(found["versions"]) == {"torch", "transformers", "trl", "peft", "bitsandbytes"}
    assert found["machine"]["device"] == "CPU, 2 cores"
    json.dumps(found)


def test_trls_best_is_searched_over_batches_without_recomputation() -> None:
    on_card = _best_candidates(32, "cuda")
    assert [setting.micro_batch for setting in on_card] == [1, 2, 4, 8]
    assert all(setting.autocast and not setting.checkpointing for setting in on_card)
    assert [setting.micro_batch for setting in _best_candidates(3, "cuda")] == [1, 2]


@pytest.mark.parametrize(
    ("name", "shapes", "kind"),
    [
        ("bitsandbytes::dequantize_4bit", [[100]], "NF4 dequantisation"),
        ("bitsandbytes::dequantize_blockwise", [[100]], "NF4 dequantisation"),
        ("aten::mm", [[10, 64], [64, 32]], "GEMM"),
        ("aten::mm", [[10, 64], [64, 300]], "head"),
        ("aten::_log_softmax", [[10, 300]], "head"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", [[1, 4, 9, 16]], "attention"),
        ("aten::mul", [[10, 64]], "elementwise"),
        ("aten::_fused_adamw_", [], "optimizer"),
        ("Optimizer.step#AdamW.step", [], "optimizer"),
    ],
)
def test_kinds(name: str, shapes: list[list[int]], kind: str) -> None:
    assert kind_of(name, shapes, 300) == kind


def test_on_a_card_kernels_are_not_counted_beside_what_launched_them() -> None:
    class Entry:
        def __init__(self, key: str, on_device: float) -> None:
            self.key, self.self_device_time_total, self.self_cpu_time_total = key, on_device, 1.0
            self.input_shapes: list[list[int]] = []

    entries = [Entry("aten::mm", 30.0), Entry("ampere_bf16_gemm", 30.0), Entry("aten::mul", 10.0)]
    entries += [Entry("void at::native::vectorized_elementwise_kernel<4>", 10.0), Entry("cudaLaunchKernel", 0.0)]
    shares = time_shares(entries, 300, cuda=True)
    assert (shares["GEMM"], shares["elementwise"]) == (0.75, 0.25)


@pytest.mark.slow
def test_the_command_measures_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device, "nvidia_present", lambda: False)
    LlamaConfig(**SHAPE, vocab_size=1024, tie_word_embeddings=True).save_pretrained(tmp_path / "models" / "lm")
    tower = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8}
    CLIPVisionConfig(**tower, num_attention_heads=1).save_pretrained(tmp_path / "models" / "tower")
    values = tiny_recipe(tmp_path, data={"max_length": 512, "workers": 0}).model_dump(mode="json")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    arguments = "bench --recipe tiny.yaml --random-weights --steps 1 --batch-size 2 --json --against trl --stage 2"
    monkeypatch.setattr(sys, "argv", ["qllava", *arguments.split()])
    assert main() == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [row["name"].split(",")[0] for row in found["contenders"]] == ["qllava", "trl", "trl", "trl", "trl"]
    assert found["ratio_default"] > 0
    assert found["ratio_best"] > 0
    assert found["matmul_tflops"] > 0
    assert 0 < found["share_of_matmul_rate"] < 1
    assert "trl, defaults, round 1" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "tiny.yaml"]
