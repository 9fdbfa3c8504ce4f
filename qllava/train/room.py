"""How much a pack may hold: the token budget and the checkpointing policy, searched by measuring and made smaller when
a step does not fit.

Everything here is arithmetic over `measure(tokens, checkpoint_every) -> bytes`; the card itself is in `probe.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from qllava.files import write_json
from qllava.model.attention import AttentionKernel
from qllava.plan.memory import POLICIES

ROOM_FILE = "memory.json"
Measure = Callable[[int, int | None], int | None]
"""(tokens of the worst pack, checkpoint_every) -> peak bytes, or None where it ran out of memory."""

_STEP = 64
# A budget this close to the best one (1 = the best) ends the search.
_CLOSE = 0.95
_MOST_TRIES = 5


@dataclass(frozen=True)
class Room:
    """What a pack may take: `token_budget` tokens (None: one sample a sequence, any length), recomputing every
    `checkpoint_every`-th layer (None: none, 1: all)."""

    token_budget: int | None
    checkpoint_every: int | None


@dataclass(frozen=True)
class Found:
    """A room that was measured, and its peak in bytes."""

    room: Room
    peak: int


@dataclass(frozen=True)
class SavedRoom:
    """What a run remembers in `memory.json`: a room, where it was found, the peak in bytes that was measured there, and
    the attention kernel that was chosen."""

    room: Room
    device: str
    vram_gib: float | None
    peak: int | None
    attention: AttentionKernel = "sdpa"


def search_room(measure: Measure, *, start: Room, limit: int, shortest: int, largest: int) -> Found | None:
    """The fastest policy whose worst pack holds the longest sample, and about its largest token budget.

    The estimate in `start` only saves measurements: one policy faster is tried first, in case it was too careful.

    Args:
        measure: the worst pack of so many tokens under a policy.
        start: the planner's estimate; without a token budget only the policy is searched, for `shortest`.
        limit: bytes that the peak may reach.
        shortest: tokens of the longest sample, which every room must hold.
        largest: tokens beyond which packs gain nothing.

    Returns:
        None where not even recomputing every layer fits.
    """
    first = max(0, POLICIES.index(start.checkpoint_every) - 1)
    for policy in POLICIES[first:]:
        peak = measure(shortest, policy)
        if peak is None or peak > limit:
            continue
        if start.token_budget is None:
            return Found(Room(None, policy), peak)
        guess = start.token_budget if policy == start.checkpoint_every else largest
        tokens, peak = _largest_budget(measure, policy, limit, (shortest, peak), max(shortest, largest), guess)
        return Found(Room(tokens, policy), peak)
    return None


def smaller_room(room: Room, *, tokens: int, samples: int) -> Room | None:
    """The next room to try after a pack of `tokens` tokens and `samples` samples ran out of memory.

    A pack of several samples is cut; a single one can only be recomputed more. None where nothing is left to try.
    """
    if room.token_budget is not None and samples > 1:
        budget = tokens * 3 // 4
        return Room(budget // _STEP * _STEP or budget, room.checkpoint_every)
    leaner = POLICIES[POLICIES.index(room.checkpoint_every) + 1 :]
    return Room(room.token_budget, leaner[0]) if leaner else None


def save_room(folder: Path, saved: SavedRoom) -> None:
    """Write `memory.json` into a run folder, atomically."""
    write_json(folder / ROOM_FILE, asdict(saved))


def saved_room(folder: Path, *, device: str, vram_gib: float | None) -> SavedRoom | None:
    """What a run found earlier on the same device under the same `--vram`; None where it has to look again."""
    path = folder / ROOM_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        saved = SavedRoom(
            Room(**values["room"]), values["device"], values["vram_gib"], values["peak"], values["attention"]
        )
    except (OSError, ValueError, TypeError, KeyError):
        # Missing, or of another version: it only saves a minute.
        return None
    fits = saved.device == device and saved.vram_gib == vram_gib and saved.room.checkpoint_every in POLICIES
    return saved if fits else None


def _largest_budget(
    measure: Measure, policy: int | None, limit: int, fitting: tuple[int, int], largest: int, guess: int
) -> tuple[int, int]:
    """Close in on the limit by straight lines through what was measured; (tokens, peak) of the largest that fits."""
    below = [fitting]
    above: tuple[int, int | None] | None = None
    if guess <= fitting[0]:
        guess = 2 * fitting[0]
    for _ in range(_MOST_TRIES):
        most = largest if above is None else above[0] - _STEP
        guess = min(max(guess // _STEP * _STEP, below[-1][0]), most)
        if guess <= below[-1][0]:
            break
        peak = measure(guess, policy)
        if peak is None or peak > limit:
            above = (guess, peak)
        else:
            below.append((guess, peak))
        if below[-1][0] >= largest:
            break
        guess = _next_guess(below, above, limit)
        if below[-1][0] >= _CLOSE * guess:
            break
    return below[-1]


def _next_guess(below: list[tuple[int, int]], above: tuple[int, int | None] | None, limit: int) -> int:
    tokens, peak = below[-1]
    if above is not None and above[1] is None:
        return (tokens + above[0]) // 2
    if above is not None and above[1] is not None:
        other, other_peak = above[0], above[1]
    elif len(below) > 1:
        other, other_peak = below[-2]
    else:
        return tokens
    slope = (other_peak - peak) / (other - tokens)
    # Attention masks make memory grow a little faster than the line.
    return int(tokens + 0.97 * (limit - peak) / slope) if slope > 0 else 2 * tokens
