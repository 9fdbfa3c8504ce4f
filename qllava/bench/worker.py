"""One measuring process: `python -m qllava.bench.worker SPEC RESULT`. Its peak memory is its own."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from qllava.bench.spec import BenchSpec, Measured, read_spec
from qllava.errors import QllavaError
from qllava.plan.device import GIB, probe_devices, require_usable
from qllava.plan.memory import CONTEXT_GIB

# Starts the last line of a process that failed for a reason people can mend.
ERROR = "error: "


def run_spec(spec: BenchSpec) -> Measured:
    """Build the model, train, measure; running out of memory is a result."""
    # Imported here: the process that starts workers needs this module's name only.
    import torch  # noqa: PLC0415

    from qllava.bench.ours import measure_ours  # noqa: PLC0415
    from qllava.bench.parts import build_bench_parts  # noqa: PLC0415
    from qllava.bench.stock import measure_trl  # noqa: PLC0415

    if spec.device == "cuda":
        # Before CUDA starts: of several cards this makes one visible, and TRL refuses two.
        require_usable(probe_devices())
    if spec.device == "cuda" and spec.vram_gib is not None:
        whole = torch.cuda.get_device_properties(0).total_memory
        # The context is outside of what torch counts.
        torch.cuda.set_per_process_memory_fraction(min(1.0, (spec.vram_gib - CONTEXT_GIB) * GIB / whole))
    with tempfile.TemporaryDirectory() as scratch:
        try:
            parts = build_bench_parts(spec)
            if spec.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            measure = measure_ours if spec.setting.trainer == "qllava" else measure_trl
            return measure(spec, parts, Path(scratch))
        except torch.OutOfMemoryError:
            return Measured(out_of_memory=True)


def main(arguments: list[str]) -> int:
    """Read the spec, write the result aside and rename it, so that half a result is none."""
    spec_path, result_path = map(Path, arguments)
    try:
        measured = run_spec(read_spec(spec_path))
    except QllavaError as error:
        sys.stdout.write(f"\n{ERROR}{error}\n")
        return 1
    aside = result_path.with_suffix(".tmp")
    aside.write_text(json.dumps(asdict(measured)), encoding="utf-8")
    aside.rename(result_path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
