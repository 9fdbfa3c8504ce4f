"""Which kinds of samples a picture gets, so that the kinds come out in the wanted proportion.

With weights `conversation=58, detail=23, reasoning=77` (the paper's samples, in thousands; section 3) the heaviest
kind is asked for about every picture, another kind for a share of the pictures: its weight over the heaviest one. The
draw is a hash of seed, picture and kind: nothing else moves it, not the number of pictures nor their order. So every
picture gets at least one sample, on the average 158 / 77 = 2.05.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from qllava.datagen.lessons import KINDS, Kind
from qllava.errors import UsageError

DEFAULT_MIX: Mapping[Kind, float] = {"conversation": 58.0, "detail": 23.0, "reasoning": 77.0}


def parse_mix(text: str) -> dict[Kind, float]:
    """`conversation=58,detail=23,reasoning=77` as weights; a kind that is not named has none.

    Raises:
        UsageError: an unknown kind, one named twice, a weight that is no positive number.
    """
    weights: dict[Kind, float] = {}
    for part in text.split(","):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        kind = next((kind for kind in KINDS if kind == name), None)
        if kind is None or not sign:
            raise UsageError(f"--mix {part.strip()!r} is not KIND=WEIGHT; kinds are {', '.join(KINDS)}")
        try:
            weight = float(value)
        except ValueError:
            weight = 0.0
        if not 0.0 < weight < float("inf") or kind in weights:
            why = "is named twice" if kind in weights else f"has weight {value!r}, not a positive number"
            raise UsageError(f"--mix: {kind} {why}; for example --mix conversation=58,detail=23,reasoning=77")
        weights[kind] = weight
    return {kind: weights[kind] for kind in KINDS if kind in weights}


def restrict(mix: Mapping[Kind, float], kinds: Sequence[Kind]) -> dict[Kind, float]:
    """The weights of `kinds` alone.

    Raises:
        UsageError: one of `kinds` has no weight in `mix`.
    """
    lacking = [kind for kind in kinds if kind not in mix]
    if lacking:
        raise UsageError(f"--kinds names {lacking[0]}, which --mix gives no weight; add {lacking[0]}=WEIGHT to --mix")
    return {kind: mix[kind] for kind in KINDS if kind in kinds}


def kinds_of(picture: str, mix: Mapping[Kind, float], seed: int) -> tuple[Kind, ...]:
    """The kinds to ask for about one picture, in their usual order; never none."""
    most = max(mix.values())
    return tuple(kind for kind, weight in mix.items() if _draw(seed, picture, kind) < weight / most)


def requests_a_picture(mix: Mapping[Kind, float]) -> float:
    """How many samples are asked for about a picture on the average."""
    return sum(mix.values()) / max(mix.values())


def _draw(seed: int, picture: str, kind: Kind) -> float:
    """A number in [0, 1), always the same for the same arguments."""
    digest = hashlib.sha256(f"{seed}/{kind}/{picture}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
