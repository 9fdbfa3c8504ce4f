"""Steps that suddenly take several times as long: on WSL, the driver moving the card's memory to the system's.

Windows' driver does not fail when the card is full, it swaps; training goes on at a tenth of its speed, and nothing
says so. Only time tells.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from statistics import median

# Swapping costs far more than this; a throttled or shared card rarely does.
SLOWER = 4.0
_IN_A_ROW = 3
_BASE_STEPS = 5


class SpillDetector:
    """Tells when steps have become SLOWER times slower a token than this run's usual ones, once each time it happens.

    The usual pace is the median of the fast steps so far; the first step (compilation, allocation) does not count.
    """

    def __init__(self) -> None:
        self._usual: deque[float] = deque(maxlen=50)
        self._slow = 0
        self._first = True

    def observe(self, *, seconds: float, tokens: int) -> float | None:
        """One step's compute time; returns how many times slower than usual the last steps were, at the third."""
        if self._first or tokens <= 0:
            self._first = False
            return None
        pace = seconds / tokens
        if len(self._usual) < _BASE_STEPS or pace < SLOWER * median(self._usual):
            self._usual.append(pace)
            self._slow = 0
            return None
        self._slow += 1
        return pace / median(self._usual) if self._slow == _IN_A_ROW else None


def under_wsl(version: Path = Path("/proc/version")) -> bool:
    """Whether this Linux is Windows' (its kernel says so)."""
    try:
        return "microsoft" in version.read_text(encoding="utf-8").lower()
    except OSError:
        return False
