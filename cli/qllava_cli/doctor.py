"""`qllava doctor`: is everything here that a run needs?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from qllava_cli.console import result

_MARKS = {"ok": "ok      ", "warning": "warning ", "problem": "PROBLEM "}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check Python, libraries, card, 4-bit layers, memory, disk; say what to do where something is missing.

    Ends with 1 if a problem was found; warnings are no problem.
    """
    from huggingface_hub.constants import HF_HUB_CACHE  # noqa: PLC0415 - --help stays light

    from qllava.model.embedded import SMOLLM2_INSTALL, SMOLLM2_PACKAGE  # noqa: PLC0415
    from qllava.plan.device import probe_devices, processor_problem  # noqa: PLC0415
    from qllava.plan.doctor import examine  # noqa: PLC0415
    from qllava_cli.quiet import quiet_libraries  # noqa: PLC0415

    quiet_libraries()
    findings = examine(
        probe_devices(),
        Path(),
        hub_cache=Path(HF_HUB_CACHE),
        embedded=(SMOLLM2_PACKAGE, SMOLLM2_INSTALL),
        nf4=processor_problem,
    )
    problems = 0
    kept = []
    for finding in findings:
        problems += finding.state == "problem"
        if as_json:
            kept.append(asdict(finding))
            continue
        fix = f": {finding.fix}" if finding.fix else ""
        result(f"{_MARKS[finding.state]}{finding.name}  {finding.found}{fix}")
    if as_json:
        result(json.dumps(kept, indent=2))
    elif not problems:
        result("nothing stands in the way")
    if problems:
        raise typer.Exit(1)
