"""What is trained on of a checked data set, and what belongs together in it."""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable
from dataclasses import dataclass

from qllava.data.findings import Findings
from qllava.data.formats import ConversationTable
from qllava.data.steps import Conversations
from qllava.errors import DataError
from qllava.types import Conversation


@dataclass(frozen=True)
class Selection:
    """Some rows of a table, by index."""

    table: Conversations
    indices: tuple[int, ...]

    def __len__(self) -> int:
        """Rows selected."""
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Conversation:
        """The `index`-th of them."""
        return self.table[self.indices[index]]


@dataclass(frozen=True)
class Audit:
    """What is left of a data set after its check.

    Attributes:
        usable: the samples to train on.
        groups: of each usable sample, its pictures (samples of equal pictures are trained together), or its own number.
        text_only: rows left out because the stage needs pictures.
        rejected: (id, reason) of the samples left out because they cannot be trained on.
    """

    usable: Conversations
    groups: list[Hashable]
    text_only: int
    rejected: list[tuple[str, str]]


def select(table: Conversations, findings: Findings, *, needs_image: bool) -> Audit:
    """Leave out the bad rows of a checked table and, if `needs_image`, those without a picture.

    Raises:
        DataError: nothing is left.
    """
    bad = {finding.row for finding in findings.bad}
    kept: list[int] = []
    groups: list[Hashable] = []
    text_only = 0
    for index, group in enumerate(_picture_groups(table, bad)):
        if index in bad:
            continue
        if needs_image and group is None:
            text_only += 1
            continue
        kept.append(index)
        groups.append(("text", index) if group is None else group)
    if not kept and text_only:
        raise DataError("stage 1 needs pictures, and every sample is text only; use this data in stage 2")
    if not kept:
        raise DataError("the data holds no samples")
    rejected = [(finding.id, finding.message) for finding in findings.bad]
    return Audit(Selection(table, tuple(kept)), groups, text_only, rejected)


def _picture_groups(table: Conversations, bad: Container[int]) -> Iterable[Hashable | None]:
    """Of each row, a key that rows of the same pictures share; None for text only, and for `bad` rows.

    A table that knows spares decoding every row.
    """
    known = table.picture_groups() if isinstance(table, ConversationTable) else None
    if known is not None:
        return (None if group < 0 else group for group in known.tolist())
    return (None if index in bad else table[index].images or None for index in range(len(table)))
