import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from qllava.errors import DataError
from qllava.report.loss_curve import read_metrics, smoothed, write_loss_curve


def rows(count: int) -> list[dict[str, float]]:
    return [{"step": step, "loss": 3 / step, "learning_rate": 1e-3 / step} for step in range(1, count + 1)]


@pytest.mark.parametrize("count", [1, 2, 200])
def test_a_png_of_the_promised_size(tmp_path: Path, count: int) -> None:
    folder = tmp_path / "align-001"
    folder.mkdir()
    metrics = folder / "metrics.jsonl"
    metrics.write_text("\n".join(json.dumps(row) for row in [{"note": "no loss"}, *rows(count)]))
    write_loss_curve(metrics, folder / "loss.png")
    with Image.open(folder / "loss.png") as image:
        assert (image.format, image.size) == ("PNG", (1600, 1000))
        colors = image.convert("RGB").getcolors(1 << 24)
    assert colors is not None
    assert (37, 99, 235) in {color for _, color in colors}  # the curve is on it


def test_diverged_runs_are_drawn_too(tmp_path: Path) -> None:
    write_loss_curve([*rows(3), {"step": 4, "loss": math.nan, "learning_rate": 0.0}], tmp_path / "a.png", title="x")
    write_loss_curve([{"step": 1, "loss": math.nan}], tmp_path / "b.png")


def test_no_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="metrics: no row has a loss; train at least one step"):
        write_loss_curve([{"step": 1}], tmp_path / "a.png")
    with pytest.raises(DataError, match=r"metrics.jsonl does not exist"):
        write_loss_curve(tmp_path / "metrics.jsonl", tmp_path / "a.png")


def test_a_half_written_last_line_is_passed_over_and_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]
    path.write_text('{"step"\n{"step": 1, "loss": 2.0}\n')
    with pytest.raises(DataError, match="line 1 is not a JSON object"):
        read_metrics(path)


def test_smoothing_keeps_levels_and_does_not_lag() -> None:
    assert smoothed([2.0] * 100) == pytest.approx([2.0] * 100)
    line = [float(i) for i in range(100)]
    assert smoothed(line)[20:80] == pytest.approx(line[20:80])
    assert smoothed([1.0, math.nan, 1.0] * 40) == pytest.approx([1.0] * 120)
    assert smoothed([]) == []


def test_the_report_floor_loads_no_torch() -> None:
    code = "import sys, qllava.report.loss_curve, qllava.report.contact_sheet as c; c._font('DejaVuSans.ttf', 9); "
    done = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
