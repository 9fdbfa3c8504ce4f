"""What `qllava doctor` looks at: everything that a run needs of the machine, and what to do where it is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from qllava.errors import DeviceError
from qllava.plan.auto import choose_recipe
from qllava.plan.device import GIB, DeviceProbe, system_memory

State = Literal["ok", "warning", "problem"]

OLDEST_PYTHON = (3, 11)
# The embedded recipe's two stages; what a 7B recipe downloads and what its checkpoints take.
LEAST_MEMORY = 4 * GIB
LEAST_DISK = 2 * GIB
DISK_7B = 25 * GIB


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `fix` says what to do, empty where nothing is to be done."""

    name: str
    state: State
    found: str
    fix: str = ""


def examine(
    probe: DeviceProbe, folder: Path, *, hub_cache: Path, embedded: tuple[str, str], nf4: Callable[[], str | None]
) -> Iterator[Finding]:
    """Look at everything, one finding after the other.

    Args:
        probe: the device; see `device.probe_devices`.
        folder: where data and runs would go.
        hub_cache: where downloaded models would go.
        embedded: module of the embedded language model, and the line that installs it.
        nf4: runs a 4-bit layer on the processor; what failed, or None. Asked only where no card was tried.
    """
    yield _python()
    yield from _libraries()
    yield _device(probe)
    if probe.kind == "cpu":
        problem = nf4()
        yield Finding("4-bit layers", "problem", problem) if problem else Finding("4-bit layers", "ok", "run here")
    yield _memory()
    yield from _disks(folder, hub_cache, large=probe.kind == "cuda")
    module, install = embedded
    if find_spec(module) is None:
        yield Finding("embedded model", "warning", f"{module} is not installed; the recipe smol needs it", install)
    else:
        yield Finding("embedded model", "ok", f"{module} is installed")
    key = "is set" if os.environ.get("OPENAI_API_KEY") else "is not set; only a paid teacher or judge needs it"
    yield Finding("OPENAI_API_KEY", "ok", key)
    yield _recipe(probe)


def _python() -> Finding:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < OLDEST_PYTHON:
        return Finding("Python", "problem", found, "use Python 3.11 or newer")
    if sys.platform != "linux":
        return Finding("Python", "warning", found, "qllava is tested on Linux (also under WSL2) only")
    return Finding("Python", "ok", found)


def _libraries() -> Iterator[Finding]:
    """Each library that is missing or of a version that qllava does not take; then those that are right."""
    right: list[str] = []
    try:
        wanted = requires("qllava") or ()
    except PackageNotFoundError:  # run from its source folder alone
        yield Finding("qllava", "problem", "is not installed, so its needs are unknown", "pip install .")
        return
    for line in wanted:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Finding(requirement.name, "problem", "is not installed", f"pip install '{_plain(requirement)}'")
            continue
        # A local build, 2.13.0+cpu, and a nightly are of the version that they say.
        if requirement.specifier.contains(found, prereleases=True):
            right.append(f"{requirement.name} {found}")
        else:
            fix = f"pip install '{_plain(requirement)}'"
            yield Finding(requirement.name, "problem", f"{found}; qllava needs {requirement.specifier}", fix)
    yield Finding("libraries", "ok", ", ".join(right))


def _plain(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _device(probe: DeviceProbe) -> Finding:
    if probe.kind == "cpu":
        return Finding("card", "warning", probe.note or "no NVIDIA card", "the 7B recipes need one; smol does not")
    if probe.kind == "broken":
        return Finding("card", "problem", probe.name, probe.problem or "")
    size = f"{probe.name}, {probe.total_bytes / GIB:.1f} GiB, {probe.free_bytes / GIB:.1f} free"
    if not probe.bf16:
        return Finding("card", "problem", f"{size}; it has no bfloat16", "use an Ampere or newer card")
    return Finding("card", "ok", f"{size}; 4-bit layers run on it" + (f"; {probe.note}" if probe.note else ""))


def _memory() -> Finding:
    total, free = system_memory()
    found = f"{free / GIB:.1f} GiB of {total / GIB:.1f} free"
    if free < LEAST_MEMORY:
        return Finding("memory", "warning", found, f"{LEAST_MEMORY / GIB:.0f} GiB are needed; close other programs")
    return Finding("memory", "ok", found)


def _disks(folder: Path, hub_cache: Path, *, large: bool) -> Iterator[Finding]:
    """Room for runs, and for models from the hub; `large` where the 7B recipes would be taken."""
    needed = DISK_7B if large else LEAST_DISK
    for name, place in (("disk here", folder), ("disk for models", hub_cache)):
        there = next(parent for parent in (place.absolute(), *place.absolute().parents) if parent.exists())
        free = shutil.disk_usage(there).free
        found = f"{free / GIB:.0f} GiB free, {place}"
        if not os.access(there, os.W_OK):
            yield Finding(name, "problem", f"{place} cannot be written", "work in a folder of your own")
        elif free < needed:
            yield Finding(name, "warning", found, f"a run wants {needed / GIB:.0f} GiB; make room")
        else:
            yield Finding(name, "ok", found)


def _recipe(probe: DeviceProbe) -> Finding:
    try:
        choice = choose_recipe(probe)
    except DeviceError as error:
        return Finding("recipe", "problem", str(error))
    return Finding("recipe", "ok", f"{choice.name} ({choice.why})")
