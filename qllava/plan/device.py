"""What this machine offers for training: an NVIDIA card that works, one that does not, or only the processor."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qllava.errors import DeviceError

if TYPE_CHECKING:
    import torch

GIB = 2**30
VISIBLE = "CUDA_VISIBLE_DEVICES"
_QUERY = "index,uuid,name,memory.total,memory.free,compute_cap"
_MIB = 2**20
# bfloat16 arithmetic exists from Ampere on; Turing (7.5) and older would emulate it.
_FIRST_BF16 = (8, 0)


@dataclass(frozen=True)
class Card:
    """One line of nvidia-smi. Memory in bytes."""

    index: int
    uuid: str
    name: str
    total_bytes: int
    free_bytes: int
    capability: tuple[int, int] | None


@dataclass(frozen=True)
class DeviceProbe:
    """The device that training would use. Memory in bytes: the card's, or the system's where there is no card.

    `kind` "broken" is an NVIDIA card that is present while torch or bitsandbytes cannot use it; `problem` says what
    failed, with versions and the fix. `note` says what was chosen among several cards, or that the user hid them.
    """

    kind: Literal["cuda", "cpu", "broken"]
    name: str
    total_bytes: int
    free_bytes: int
    capability: tuple[int, int] | None = None
    count: int = 0
    bf16: bool = True
    problem: str | None = None
    note: str | None = None


def probe_devices(environ: MutableMapping[str, str] | None = None) -> DeviceProbe:
    """Look at the machine; with an NVIDIA card, run a small NF4 forward and backward on it.

    With several cards and no `CUDA_VISIBLE_DEVICES`, the variable is set to the card with the most free memory: stock
    trainers refuse two visible cards, and the choice has to come before CUDA starts. Never raises for a broken card:
    see `require_usable`.
    """
    environ = os.environ if environ is None else environ
    if environ.get(VISIBLE, "unset").strip() in {"", "-1"}:
        hidden = f"{VISIBLE}={environ[VISIBLE]} hides the NVIDIA cards" if nvidia_present() else None
        return processor(note=hidden)
    if not nvidia_present():
        return processor()
    cards = nvidia_cards()
    card, note = choose_card(cards, environ)
    return check_card(card, len(cards), note, nf4_problem)


def require_usable(probe: DeviceProbe) -> None:
    """Refuse a card that cannot train.

    Raises:
        DeviceError: the card is broken, or has no bfloat16 (Turing and older).
    """
    if probe.kind == "broken":
        raise DeviceError(f"{probe.name} is present but cannot be used: {probe.problem}")
    if probe.kind == "cuda" and not probe.bf16:
        level = ".".join(str(part) for part in probe.capability or ())
        raise DeviceError(
            f"{probe.name} (compute capability {level}) has no bfloat16, and training in float16 overflows; use an "
            f"Ampere or newer card (RTX 30 series, A10, L4, ...), or `{VISIBLE}= qllava ...` for the processor"
        )


def processor(note: str | None = None) -> DeviceProbe:
    """The probe of a machine that trains on its processor; memory is the system's, or its container's limit."""
    total, free = system_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return DeviceProbe("cpu", f"CPU, {cores} cores", total, free, note=note)


def nvidia_present() -> bool:
    """Whether an NVIDIA card is in the machine, whatever state its driver is in."""
    folder = Path("/proc/driver/nvidia/gpus")
    if folder.is_dir() and any(folder.iterdir()):
        return True
    return bool(nvidia_cards()) or Path("/dev/nvidia0").exists()


@cache
def nvidia_cards() -> tuple[Card, ...]:
    """The cards nvidia-smi lists; empty where there is none or it does not answer."""
    # WSL keeps nvidia-smi outside PATH.
    program = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path="/usr/lib/wsl/lib")
    if program is None:
        return ()
    command = [program, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_cards(answer)


def parse_cards(answer: str) -> tuple[Card, ...]:
    """Read nvidia-smi's CSV (index, uuid, name, MiB in all, MiB free, capability); lines it cannot read are no card."""
    cards = []
    for row in csv.reader(answer.splitlines(), skipinitialspace=True):
        if len(row) != len(_QUERY.split(",")) or not row[0].isdigit() or not row[3].isdigit():
            continue
        major, _, minor = row[5].partition(".")
        capability = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
        free = int(row[4]) if row[4].isdigit() else int(row[3])
        cards.append(Card(int(row[0]), row[1], row[2], int(row[3]) * _MIB, free * _MIB, capability))
    return tuple(cards)


def choose_card(
    cards: tuple[Card, ...], environ: MutableMapping[str, str], *, cuda_started: bool | None = None
) -> tuple[Card | None, str | None]:
    """The card to train on and a line about the choice; sets `CUDA_VISIBLE_DEVICES` in `environ` if there are several.

    A variable set by the user keeps its cards (the first of them is taken), and a launcher that gives every process
    its own card (`WORLD_SIZE` > 1) is left alone.
    """
    if not cards:
        return None, None
    chosen = environ.get(VISIBLE)
    candidates = cards if chosen is None else _named(cards, chosen)
    if len(candidates) == 1 or int(environ.get("WORLD_SIZE") or 1) > 1:
        return candidates[0], None
    if _cuda_started() if cuda_started is None else cuda_started:
        return candidates[0], f"{len(candidates)} cards, and CUDA is in use already: the first"
    if chosen is not None:
        environ[VISIBLE] = candidates[0].uuid
        return candidates[0], f"card {candidates[0].index}, the first of {VISIBLE}={chosen}; training uses one"
    best = max(cards, key=lambda card: (card.free_bytes, -card.index))
    environ[VISIBLE] = best.uuid
    return best, f"card {best.index} of {len(cards)}, the one with the most free memory; {VISIBLE} chooses another"


def check_card(card: Card | None, count: int, note: str | None, problem: Callable[[], str | None]) -> DeviceProbe:
    """The probe of a present card: "cuda" if `problem()` finds none, else "broken".

    `card` is None where the machine shows a card that nvidia-smi does not list.
    """
    if card is None:
        found = problem() or "nvidia-smi does not list it; reinstall the driver, then restart"
        return DeviceProbe("broken", "an NVIDIA card", 0, 0, None, count, False, found, note)
    bf16 = card.capability is None or card.capability >= _FIRST_BF16
    # Without bfloat16 the NF4 test would fail for that reason; `require_usable` explains it better.
    found_problem = problem() if bf16 else None
    kind: Literal["cuda", "broken"] = "cuda" if found_problem is None else "broken"
    return DeviceProbe(
        kind, card.name, card.total_bytes, card.free_bytes, card.capability, count, bf16, found_problem, note
    )


@cache
def nf4_problem() -> str | None:
    """Run a small NF4 layer forward and backward on the visible card; None, or what failed, versions and the fix."""
    try:
        import torch  # noqa: PLC0415 - seconds, and only where a card is present
    except (ImportError, OSError) as error:
        return f"torch does not load ({_first_line(error)}); reinstall it with `make setup`"
    if torch.version.cuda is None:
        return (
            f"torch {torch.__version__} is a build without CUDA; `pip install --force-reinstall torch` from an index "
            "that serves the CUDA build"
        )
    try:
        available = torch.cuda.is_available()
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        return (
            f"CUDA does not start ({_first_line(error)}; torch {torch.__version__} for CUDA {torch.version.cuda}, "
            f"available: {available}); update the NVIDIA driver to one for CUDA {torch.version.cuda}"
        )
    return _try_nf4("cuda", torch.bfloat16)


def processor_problem() -> str | None:
    """Run the same layer on the processor; None, or what failed, versions and the fix."""
    try:
        import torch  # noqa: PLC0415
    except (ImportError, OSError) as error:
        return f"torch does not load ({_first_line(error)}); reinstall it with `make setup`"
    return _try_nf4("cpu", torch.float32)


def _try_nf4(device: str, dtype: torch.dtype) -> str | None:
    import torch  # noqa: PLC0415

    try:
        import bitsandbytes  # noqa: PLC0415

        layer = bitsandbytes.nn.Linear4bit(64, 64, bias=False, compute_dtype=dtype, quant_type="nf4")
        layer = layer.to(device)
        inputs = torch.ones(4, 64, device=device, dtype=dtype, requires_grad=True)
        layer(inputs).float().square().sum().backward()
        gradient = inputs.grad
        healthy = gradient is not None and bool(torch.isfinite(gradient).all()) and bool(gradient.any())
    except (ImportError, OSError, RuntimeError, AttributeError, NotImplementedError) as error:
        return f"4-bit layers fail on it ({_first_line(error)}; {_versions()}); `pip install -U bitsandbytes`"
    return None if healthy else f"4-bit layers give no gradient on it ({_versions()}); `pip install -U bitsandbytes`"


def system_memory(root: Path = Path("/")) -> tuple[int, int]:
    """(total, available) bytes of system memory, no more than the container's limit. Sources: proc(5), cgroup v2."""
    fields = dict.fromkeys(("MemTotal", "MemAvailable"), 0)
    meminfo = root / "proc/meminfo"
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in fields:
                fields[name] = int(rest.split()[0]) * 1024
    total, free = fields["MemTotal"], fields["MemAvailable"]
    limit, used = (_read_number(root / "sys/fs/cgroup" / name) for name in ("memory.max", "memory.current"))
    if limit is not None and limit < total:
        total, free = limit, min(free, max(0, limit - (used or 0)))
    return total, free


def _named(cards: tuple[Card, ...], chosen: str) -> tuple[Card, ...]:
    """The cards that a `CUDA_VISIBLE_DEVICES` value names, by index or by the start of a UUID, in its order."""

    def matches(word: str, card: Card) -> bool:
        return word == str(card.index) if word.isdigit() else bool(word) and card.uuid.startswith(word)

    named = tuple(card for word in chosen.split(",") for card in cards if matches(word.strip(), card))
    return named or cards[:1]


def _cuda_started() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _read_number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # an unlimited container reads "max"


def _versions(packages: tuple[str, ...] = ("torch", "bitsandbytes")) -> str:
    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "missing"

    return ", ".join(f"{package} {of(package)}" for package in packages)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
