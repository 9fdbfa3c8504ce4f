"""Seconds a sample takes, from its arithmetic and the device's rate."""

from __future__ import annotations

import os
from typing import NamedTuple

from qllava.plan.device import DeviceProbe


class Rate(NamedTuple):
    """bf16 matrix products a second in TFLOP (1e12), accumulated in fp32, and where the number comes from."""

    tflops: float
    source: str


# Dense bf16 with fp32 accumulation, from NVIDIA's data sheets. The longest name that occurs in the card's name wins.
# None of these has been measured by us; a rate that was is told with --tflops, or `qllava bench` measures it.
DATA_SHEET: dict[str, float] = {
    "RTX 3060": 25.5,
    "RTX 3080": 59.5,
    "RTX 3080 Ti": 68.0,
    "RTX 3090": 71.0,
    "RTX 3090 Ti": 80.0,
    "RTX 4060 Ti": 44.0,
    "RTX 4080": 97.5,
    "RTX 4090": 165.0,
    "RTX 5090": 209.5,
    "RTX A6000": 155.0,
    "A10": 125.0,
    "L4": 121.0,
    "L40S": 362.0,
    "A100": 312.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H200": 989.0,
}
# GB as sold (for memory: GiB); where a card was sold with several, the one people train on.
CARD_GB: dict[str, int] = {
    "RTX 3060": 12,
    "RTX 3080": 10,
    "RTX 3080 Ti": 12,
    "RTX 3090": 24,
    "RTX 3090 Ti": 24,
    "RTX 4060 Ti": 16,
    "RTX 4080": 16,
    "RTX 4090": 24,
    "RTX 5090": 32,
    "RTX A6000": 48,
    "A10": 24,
    "L4": 24,
    "L40S": 48,
    "A100": 80,
    "H100 PCIe": 80,
    "H100": 80,
    "H200": 141,
}
# Training reaches about half of the data sheet: dequantisation, norms, the optimizer.
EFFICIENCY = 0.5
# Measured: SmolLM2-135M in NF4, 16 samples of 48 tokens in 2 s on two cores.
CPU_TFLOPS_A_CORE = 0.08


def device_rate(probe: DeviceProbe) -> Rate | None:
    """The rate of a device; None for a card that is not in the table, and for laptops' versions."""
    if probe.kind == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
        return Rate(CPU_TFLOPS_A_CORE * cores, f"measured on two cores, {cores} here")
    name = known_card(probe.name)
    return None if name is None else card_rate(name)


def known_card(name: str) -> str | None:
    """The card of the table that a name means (`3090` and `NVIDIA GeForce RTX 3090` do); None for any other."""
    words = f" {name} ".replace("-", " ").lower()
    if " laptop " in words:  # its clocks are the maker's choice
        return None
    known = [card for card in DATA_SHEET if f" {card.lower()} " in words]
    if not known and name.isdigit():
        return known_card(f"RTX {name}")
    return max(known, key=len) if known else None


def card_rate(name: str) -> Rate:
    """The rate of a card in the table."""
    sheet = DATA_SHEET[name]
    return Rate(sheet * EFFICIENCY, f"{name} at {EFFICIENCY:.0%} of its data sheet's {sheet:g} TFLOP/s")


def hours(samples: float, tflop_a_sample: float, rate: Rate) -> float:
    """Hours for `samples` (over all epochs) at a rate."""
    return samples * tflop_a_sample / rate.tflops / 3600
