"""The search for what fits, on simulated cards, and what comes after a step that did not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qllava.plan.memory import POLICIES
from qllava.train.room import Room, SavedRoom, save_room, saved_room, search_room, smaller_room

MIB = 2**20
GIB = 2**30


class Card:
    """A card whose peak grows with the tokens, a little faster for the mask; counts what it is asked."""

    def __init__(self, *, size: int, static: int, kib_a_token: float) -> None:
        self.size, self.static, self.kib = size, static, kib_a_token
        self.asked: list[tuple[int, int | None]] = []

    def bytes(self, tokens: int, policy: int | None) -> int:
        share = {None: 1.0, 4: 0.78, 3: 0.7, 2: 0.55, 1: 0.1}[policy]
        return int(self.static + tokens * self.kib * 1024 * share + 4 * tokens**2)

    def measure(self, tokens: int, policy: int | None) -> int | None:
        self.asked.append((tokens, policy))
        peak = self.bytes(tokens, policy)
        return None if peak > self.size else peak

    def best(self, policy: int | None, limit: int, largest: int) -> int:
        return max((t for t in range(64, largest + 1, 64) if self.bytes(t, policy) <= limit), default=0)


@pytest.mark.parametrize("start", [Room(2048, None), Room(8192, None), Room(3072, 4), Room(2048, 1)], ids=str)
@pytest.mark.parametrize("kib", [400, 1200, 3000, 5400, 7000, 9000, 20_000])
@pytest.mark.parametrize("static_gib", [4, 8, 16])
def test_the_search_finds_nearly_the_best_budget(start: Room, kib: float, static_gib: int) -> None:
    limit = int(22.4 * GIB)
    card = Card(size=int(23.3 * GIB), static=static_gib * GIB, kib_a_token=kib)
    found = search_room(card.measure, start=start, limit=limit, shortest=2048, largest=8192)
    allowed = POLICIES[max(0, POLICIES.index(start.checkpoint_every) - 1) :]
    fastest = next((p for p in allowed if card.bytes(2048, p) <= limit), "none")
    if fastest == "none":
        assert found is None
        return
    assert found is not None
    assert found.room.checkpoint_every == fastest
    assert found.room.token_budget is not None
    assert found.peak == card.bytes(found.room.token_budget, found.room.checkpoint_every) <= limit
    assert found.room.token_budget >= 0.9 * card.best(found.room.checkpoint_every, limit, 8192)
    assert len(card.asked) <= 10


def test_without_packing_only_the_policy_is_searched() -> None:
    card = Card(size=24 * GIB, static=8 * GIB, kib_a_token=10_000)
    found = search_room(card.measure, start=Room(None, None), limit=22 * GIB, shortest=2048, largest=8192)
    assert found is not None
    assert found.room == Room(None, 3)
    assert card.asked == [(2048, None), (2048, 4), (2048, 3)]


def test_after_a_step_that_did_not_fit() -> None:
    room: Room | None = Room(4096, None)
    assert room is not None
    assert smaller_room(room, tokens=4000, samples=9) == Room(2944, None)
    assert smaller_room(room, tokens=70, samples=2) == Room(52, None)
    # One sample cannot be cut: recompute more, until nothing is left.
    seen = []
    while room is not None:
        seen.append(room.checkpoint_every)
        room = smaller_room(room, tokens=5000, samples=1)
    assert tuple(seen) == POLICIES
    assert smaller_room(Room(None, 2), tokens=600, samples=1) == Room(None, 1)


def test_budgets_shrink_to_one_sample_and_end() -> None:
    room: Room | None = Room(8192, 1)
    budgets = []
    while room is not None and room.token_budget is not None:
        budgets.append(room.token_budget)
        room = smaller_room(room, tokens=room.token_budget, samples=2 if room.token_budget > 30 else 1)
    assert budgets == sorted(set(budgets), reverse=True)
    assert len(budgets) < 30


def test_a_room_is_remembered_where_it_was_found(tmp_path: Path) -> None:
    saved = SavedRoom(Room(4096, 4), "NVIDIA GeForce RTX 4090", 24.0, 21 * GIB)
    save_room(tmp_path, saved)
    assert saved_room(tmp_path, device=saved.device, vram_gib=24.0) == saved
    assert saved_room(tmp_path, device="NVIDIA H100", vram_gib=24.0) is None
    assert saved_room(tmp_path, device=saved.device, vram_gib=None) is None
    path = tmp_path / "memory.json"
    unknown_policy = path.read_text().replace('"checkpoint_every": 4', '"checkpoint_every": 7')
    assert unknown_policy != path.read_text()
    for damaged in ("", "[]", json.dumps({"room": {"token_budget": 1}}), unknown_policy):
        path.write_text(damaged)
        assert saved_room(tmp_path, device=saved.device, vram_gib=24.0) is None
    assert saved_room(tmp_path / "nowhere", device=saved.device, vram_gib=24.0) is None
