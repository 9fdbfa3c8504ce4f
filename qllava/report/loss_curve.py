"""The loss of a run as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qllava.errors import DataError

_BLUE = "#2563eb"
_GREY = "#475569"
_INK = "#0f172a"


def write_loss_curve(metrics: Path | Sequence[Mapping[str, Any]], out: Path, *, title: str | None = None) -> None:
    """Draw loss (raw light, smoothed bold) over learning rate, by step, as a PNG of 1600 x 1000 pixels.

    Args:
        metrics: rows with `step`, `loss` (nats a token) and `learning_rate`, or a metrics.jsonl of them; rows without a
            loss are left out, and of a step that a continued run repeated the last row counts.
        out: the PNG.
        title: the name of the file's folder (the run) unless given.

    Raises:
        DataError: the file is missing or not JSON lines, or no row has a loss.
    """
    origin = metrics if isinstance(metrics, Path) else None
    rows = read_metrics(metrics) if isinstance(metrics, Path) else metrics
    by_step = {int(row["step"]): row for row in rows if isinstance(row.get("loss"), int | float)}
    if not by_step:
        raise DataError(f"{origin or 'metrics'}: no row has a loss; train at least one step")
    steps = sorted(by_step)
    losses = [float(by_step[step]["loss"]) for step in steps]
    rates = [float(by_step[step].get("learning_rate") or 0.0) for step in steps]
    name = title if title is not None else (origin.resolve().parent.name if origin else "")

    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - half a second, for the PNG alone
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: PLC0415

    # A Figure of its own, not pyplot: no global state, and no display is looked for.
    figure = Figure(figsize=(10, 6.25), dpi=160, layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15))
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    smooth = smoothed(losses)
    top.plot(steps, losses, color=_BLUE, alpha=0.28, linewidth=1.2, label="each step")
    top.plot(steps, smooth, color=_BLUE, linewidth=2.6, label="smoothed")
    if len(steps) == 1:
        top.plot(steps, losses, "o", color=_BLUE)
    last = next((value for value in reversed(smooth) if math.isfinite(value)), math.nan)
    if math.isfinite(last):
        label = f"{last:.3f}"
        top.annotate(
            label, (steps[-1], last), (6, 6), textcoords="offset points", color=_BLUE, fontsize=13, fontweight="bold"
        )
        top.margins(x=0.05)
    top.set_title(name, loc="left", fontsize=17, fontweight="bold", color=_INK, pad=12)
    top.set_ylabel("loss (nats a token)", fontsize=13, color=_GREY)
    top.legend(frameon=False, fontsize=12, loc="upper right")
    finite = [value for value in losses if math.isfinite(value)]
    if finite:
        top.set_ylim(bottom=0.0 if min(finite) >= 0 else None)
    bottom.plot(steps, rates, color=_GREY, linewidth=1.8)
    bottom.set_ylim(bottom=0.0)
    bottom.set_ylabel("learning rate", fontsize=13, color=_GREY)
    bottom.set_xlabel("step", fontsize=13, color=_GREY)
    bottom.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    bottom.xaxis.get_major_locator().set_params(integer=True)
    for axes in (top, bottom):
        axes.grid(color="#e2e8f0", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=12, colors=_GREY)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color("#cbd5e1")
    figure.savefig(out, facecolor="white")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl.

    A half-written last line, which a killed process leaves, is passed over.

    Raises:
        DataError: no such file, or another line that is no JSON object.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; a run writes it while it trains")
    lines = [(n, line) for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if line.strip()]
    rows: list[dict[str, Any]] = []
    for number, line in lines:
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError
        except ValueError:
            if number == lines[-1][0]:
                break
            raise DataError(f"{path} line {number} is not a JSON object; remove the line") from None
        rows.append(row)
    return rows


def smoothed(values: Sequence[float]) -> list[float]:
    """Gaussian average around each value, as wide as a fortieth of the curve: centred, so that it does not lag behind.

    NaN and infinite values are left out of it; where nothing finite is near, the result is NaN.
    """
    width = min(25.0, len(values) / 40)
    reach = math.ceil(3 * width)
    weights = [math.exp(-0.5 * (offset / width) ** 2) if width else 1.0 for offset in range(reach + 1)]
    result: list[float] = []
    for middle in range(len(values)):
        total = weight = 0.0
        for place in range(max(0, middle - reach), min(len(values), middle + reach + 1)):
            if math.isfinite(values[place]):
                total += weights[abs(place - middle)] * values[place]
                weight += weights[abs(place - middle)]
        result.append(total / weight if weight else math.nan)
    return result
