"""Which recipe `auto` means on this machine. Never gated, never 13B."""

from __future__ import annotations

from typing import NamedTuple

from qllava.errors import DeviceError
from qllava.plan.device import GIB, DeviceProbe, require_usable

# Card size as it is sold, in 1e9 bytes (a "24 GB" card has 25.7e9, less what the driver keeps), to recipe.
BY_CARD_GB: tuple[tuple[float, str], ...] = ((20, "llava-1.5-7b"), (10, "qwen2.5-3b"), (6, "qwen2.5-1.5b"))
WITHOUT_CARD = "smol"


class Choice(NamedTuple):
    """A recipe's name and one line that says why it was taken."""

    name: str
    why: str


def choose_recipe(probe: DeviceProbe, vram_gib: float | None = None) -> Choice:
    """The largest shipped recipe that the card holds, or the embedded one without an NVIDIA card.

    Goes by the card's whole memory, not by what is free now, so that both stages agree. `vram_gib` caps it.

    Raises:
        DeviceError: the card is broken, has no bfloat16, or is smaller than the smallest recipe needs.
    """
    require_usable(probe)
    if probe.kind == "cpu":
        return Choice(WITHOUT_CARD, f"auto: {probe.note or 'no NVIDIA card'}, so the embedded model")
    size = probe.total_bytes if vram_gib is None else min(probe.total_bytes, int(vram_gib * GIB))
    seen = f"{probe.name}, {probe.total_bytes / GIB:.1f} GiB"
    if size < probe.total_bytes:
        seen += f", capped at {size / GIB:.1f} by --vram"
    for least, name in BY_CARD_GB:
        if size >= least * 1e9:
            return Choice(name, f"auto: {seen}; {name} from {least} GB up")
    least, name = BY_CARD_GB[-1]
    raise DeviceError(
        f"{seen}: the smallest recipe ({name}) needs {least} GB; use a larger card, or --recipe {WITHOUT_CARD} for the "
        "embedded model"
    )
