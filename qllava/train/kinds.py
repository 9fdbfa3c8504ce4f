"""`--kinds`: a training run on some kinds of samples is a run of its own."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from qllava.data.formats import ConversationTable, select_rows
from qllava.data.kinds import KindSelection, parse_kinds, select_kinds
from qllava.train.request import DataSource


def restrict_to_kinds(
    data: DataSource, table: ConversationTable, kinds: str
) -> tuple[DataSource, ConversationTable, KindSelection]:
    """The data with an identity that names the kinds, and the samples of these kinds.

    Args:
        data: where the samples come from.
        table: all of them.
        kinds: as typed: `conversation,detail=5%`.

    Raises:
        UsageError, DataError: as `parse_kinds` and `select_kinds`.
    """
    shares = parse_kinds(kinds)
    selection = select_kinds(table, shares)
    named = ",".join(f"{kind}={share!r}" for kind, share in sorted(shares.items()))
    digest = hashlib.sha256(f"{data.digest}\n{named}".encode()).hexdigest()
    return replace(data, digest=digest), select_rows(table, selection.indices), selection
