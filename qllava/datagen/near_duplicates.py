"""Texts that say almost the same: MinHash over three-word runs, remembered for a bounded number of texts."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from typing import NamedTuple

PERMUTATIONS = 64
"""Standard deviation of the estimate at the threshold: sqrt(0.8 x 0.2 / 64) = 0.05."""
BANDS = 8
"""Eight bands of eight: texts of similarity 0.9 are compared with probability 0.99, of 0.5 with 0.03."""
THRESHOLD = 0.8
"""Estimated share of common three-word runs from which two texts count as the same."""
MOST_REMEMBERED = 300_000
"""Texts, 1.0 kB each (measured); beyond that the oldest are forgotten. The paper's set has 100,000 long ones."""
_RUN = 3


class Likeness(NamedTuple):
    """An earlier text's name and the estimated similarity, 0-1."""

    name: str
    similarity: float


class NearDuplicates:
    """Remembers texts by their signature, 1 kB each, and finds an earlier one that is nearly the same.

    The answer depends on the order of the calls: of two alike, the earlier one stays.
    """

    def __init__(self, *, seed: int, most: int = MOST_REMEMBERED) -> None:
        self._seed = seed
        self._most = most
        self._oldest = 0
        self._next = 0
        self._names: dict[int, str] = {}
        self._signatures: dict[int, bytes] = {}
        self._bands: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._signatures)

    def like(self, words: Iterable[str]) -> Likeness | None:
        """The most similar earlier text at or above the threshold, if any; remembers nothing."""
        signature = self._signature(words)
        candidates = {self._bands[band] for band in _band_keys(signature) if band in self._bands}
        found = [(_similarity(signature, self._signatures[number]), number) for number in sorted(candidates)]
        best = max(found, default=(0.0, 0))
        return Likeness(self._names[best[1]], best[0]) if best[0] >= THRESHOLD else None

    def remember(self, name: str, words: Iterable[str]) -> None:
        """Keep a text's signature under a name for later comparisons."""
        signature = self._signature(words)
        number = self._next
        self._next += 1
        self._names[number] = name
        self._signatures[number] = signature
        for band in _band_keys(signature):
            self._bands.setdefault(band, number)
        if len(self._signatures) > self._most:
            self._forget()

    def _forget(self) -> None:
        for band in _band_keys(self._signatures.pop(self._oldest)):
            if self._bands.get(band) == self._oldest:
                del self._bands[band]
        del self._names[self._oldest]
        self._oldest += 1

    def _signature(self, words: Iterable[str]) -> bytes:
        from rensa import RMinHash  # noqa: PLC0415 - only a language model's answers need it

        sketch = RMinHash(num_perm=PERMUTATIONS, seed=self._seed)
        listed = list(words)
        sketch.update([" ".join(listed[at : at + _RUN]) for at in range(max(1, len(listed) - _RUN + 1))])
        return array("I", sketch.digest()).tobytes()


def _band_keys(signature: bytes) -> list[int]:
    """One 64-bit number a band, different between bands."""
    width = len(signature) // BANDS
    parts = [signature[at * width : (at + 1) * width] for at in range(BANDS)]
    return [
        int.from_bytes(hashlib.blake2b(part, digest_size=8, salt=bytes([at])).digest()) for at, part in enumerate(parts)
    ]


def _similarity(one: bytes, other: bytes) -> float:
    first, second = array("I", one), array("I", other)
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
