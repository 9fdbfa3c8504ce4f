"""The device's own rate of matrix products, in the type that training computes in: what a step can be held against."""

from __future__ import annotations

import time

import torch

from qllava.model.precision import compute_dtype

_SIDE = {"cuda": 8192, "cpu": 1024}
_SECONDS = 1.0


def matmul_tflops(device: str) -> float:
    """The best TFLOP/s (1e12) of square products over about a second."""
    side = _SIDE[device]
    left, right = (torch.randn(side, side, device=device).to(compute_dtype(device)) for _ in range(2))
    flop = 2.0 * side**3
    best = float("inf")
    end = time.perf_counter() + _SECONDS
    rounds = 0
    while rounds < 3 or time.perf_counter() < end:
        _wait(device)
        started = time.perf_counter()
        torch.mm(left, right)
        _wait(device)
        best = min(best, time.perf_counter() - started)
        rounds += 1
    return flop / best / 1e12


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
