"""Training on some kinds of samples, or on shares of them: `conversation,detail=5%,reasoning=10%`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from qllava.data.rows import RowRejected
from qllava.data.steps import Conversations
from qllava.errors import DataError, UsageError


@dataclass(frozen=True)
class KindSelection:
    """What was selected.

    `indices` of the samples, ascending; rows that cannot be read are among them, for the check to name. `taken` maps a
    kind to (samples taken, samples there are); `left_out` counts all others.
    """

    indices: tuple[int, ...]
    taken: Mapping[str, tuple[int, int]]
    left_out: int

    def sentence(self) -> str:
        """For people: `conversation 58,000, detail 1,150 of 23,000`."""
        return ", ".join(
            f"{kind} {taken:,}" + (f" of {there:,}" if taken < there else "")
            for kind, (taken, there) in self.taken.items()
        )


def parse_kinds(text: str) -> dict[str, float]:
    """Shares (0-1] by kind, in the order given; a kind alone is all of it.

    Raises:
        UsageError: no kind, one named twice, or a share that is none.
    """
    shares: dict[str, float] = {}
    for entry in text.split(","):
        kind, equals, given = (part.strip() for part in entry.partition("="))
        if not kind:
            raise UsageError(f"--kinds {text!r} has an empty entry; write conversation,detail=5%")
        if kind in shares:
            raise UsageError(f"--kinds {text!r} names {kind} twice; keep one")
        shares[kind] = _share(given, text) if equals else 1.0
    return shares


def _share(given: str, text: str) -> float:
    percent = given.endswith("%")
    try:
        share = float(given.removesuffix("%")) / (100.0 if percent else 1.0)
    except ValueError:
        share = 0.0
    if not 0.0 < share <= 1.0:
        raise UsageError(f"--kinds {text!r}: {given!r} is no share; write 5% or 0.05, up to 100%")
    return share


def select_kinds(conversations: Conversations, shares: Mapping[str, float]) -> KindSelection:
    """The samples of these kinds, in their order.

    A share takes the samples whose ids have the smallest hashes: always the same ones, and 10 % hold the 5 %.

    Raises:
        DataError: the data marks no kinds.
        UsageError: a kind that it does not have; names those it has.
    """
    by_kind: dict[str, list[tuple[str, int]]] = {}
    chosen: list[int] = []
    for index in range(len(conversations)):
        try:
            conversation = conversations[index]
        except RowRejected:
            chosen.append(index)
            continue
        if conversation.kind is not None:
            by_kind.setdefault(conversation.kind, []).append((conversation.id, index))
    if not by_kind:
        raise DataError(
            "--kinds needs data that marks kinds (`kind` in each sample, as gen-data writes it), and this has none; "
            "name one of LLaVA's files by kind with --data (conversation_58k.json, detail_23k.json, ...) instead"
        )
    for kind in shares:
        if kind not in by_kind:
            raise UsageError(f"--kinds {kind} is not in the data; it has {', '.join(sorted(by_kind))}")
    taken: dict[str, tuple[int, int]] = {}
    for kind, share in shares.items():
        samples = by_kind[kind]
        number = max(1, round(share * len(samples)))
        ranked = sorted(samples, key=lambda sample: (_rank(sample[0]), sample[1])) if number < len(samples) else samples
        chosen += [index for _, index in ranked[:number]]
        taken[kind] = (number, len(samples))
    chosen.sort()
    return KindSelection(tuple(chosen), taken, len(conversations) - len(chosen))


def _rank(identity: str) -> bytes:
    return hashlib.sha256(identity.encode("utf-8", "replace")).digest()
