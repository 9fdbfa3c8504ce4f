"""A benchmark's figures as a page of 80 columns."""

from __future__ import annotations

from qllava.bench.run import BenchResult, Row
from qllava.plan.describe import policy_text
from qllava.plan.device import GIB

_HEAD = f"{'':<44}{'samples/s':>10}{'tokens/s':>9}{'trained/s':>10}{'GiB':>7}"


def bench_page(result: BenchResult) -> str:
    """The table, the ratios, and where the time went."""
    request = result.request
    ours = result.ours.middle
    lines = [
        f"{request.recipe.name}, stage {request.stage}, on {request.probe.name}",
        f"{request.steps} steps of {request.batch_size} samples, {request.rounds} rounds, median",
        f"ours: checkpointing {policy_text(ours.checkpoint_every)}, {ours.token_budget} tokens a pack",
        "",
        _HEAD,
    ]
    lines += [_row(row) for row in (result.ours, result.default, result.best) if row is not None]
    lines.append("")
    for name, other in (("its defaults", result.default), ("its best setting", result.best)):
        ratio = result.ratio(other)
        if ratio is not None:
            lines.append(f"{ratio:.2f} x the samples a second of TRL at {name}")
        elif other is not None:
            lines.append(f"TRL at {name} ran out of memory")
    if result.tried:
        speeds = ", ".join(
            f"{row.setting.micro_batch}: {'-' if row.middle.out_of_memory else f'{row.middle.samples_per_second:.3g}'}"
            for row in result.tried
        )
        lines.append(f"TRL's samples/s by batch, no recomputation: {speeds}")
    lines.append(f"{result.share_of_rate:.0%} of the {result.rate:.3g} TFLOP/s that matrix products reach here")
    if result.planned_peak_gib is not None:
        measured = result.ours.peak_bytes / GIB
        lines.append(f"peak {measured:.2f} GiB; the planner said {result.planned_peak_gib:.2f}")
    shares = result.ours.turns[0].shares
    if shares:
        lines += ["", "where a step's time goes"]
        lines += [f"  {kind:<20}{share:7.1%}" for kind, share in sorted(shares.items(), key=lambda item: -item[1])]
    return "\n".join(lines)


def _row(row: Row) -> str:
    middle = row.middle
    if middle.out_of_memory:
        return f"{row.setting.name:<44}{'out of memory':>36}"
    seconds = middle.seconds
    return (
        f"{row.setting.name:<44}{middle.samples / seconds:>10.3g}{middle.tokens / seconds:>9.0f}"
        f"{middle.supervised_tokens / seconds:>10.0f}{row.peak_bytes / GIB:>7.2f}"
    )
