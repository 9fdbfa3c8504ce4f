"""The clean part of a checked data set as a file of its own, in the same format."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from qllava.data.findings import Findings
from qllava.data.formats import ConversationTable
from qllava.errors import DataError, UsageError

# Doubts that cost nothing to heed: the sample is there once more, or belongs to the measurement.
LEFT_OUT = ("duplicate", "held_out")


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What was written: rows kept, and rows left out by reason."""

    kept: int
    left_out: dict[str, int]


def check_out(table: ConversationTable, out: Path) -> None:
    """Refuse a place that `write_clean` could not use, before an hour of checking.

    Raises:
        UsageError: it exists, its folder does not, or its ending is another format's.
    """
    suffix = Path(table.source).suffix if Path(table.source).is_file() else ".parquet"
    if out.suffix != suffix:
        raise UsageError(f"--fix {out} has another format than {table.source}; name a {suffix} file")
    if out.exists():
        raise UsageError(f"--fix {out} exists; name a new file")
    if not out.parent.is_dir():
        raise UsageError(f"--fix {out}: folder {out.parent} does not exist; make it first")


def write_clean(table: ConversationTable, findings: Findings, out: Path) -> Cleaned:
    """Write the rows that are not bad, not an earlier one's equal, and not about a held-out picture.

    Rows are copied as they are: half turns and control tokens stay in the file, the reader handles them.

    Raises:
        DataError: nothing would be left.
    """
    reasons = {finding.row: finding.reason for finding in findings.doubtful if finding.reason in LEFT_OUT}
    reasons |= {finding.row: finding.reason for finding in findings.bad}
    kept = [row for row in range(len(table)) if row not in reasons]
    if not kept:
        raise DataError(f"nothing of {table.source} is clean, so {out} is not written; see the list of reasons")
    aside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        table.write_rows(kept, aside)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    left_out: dict[str, int] = {}
    for reason in reasons.values():
        left_out[reason] = left_out.get(reason, 0) + 1
    return Cleaned(len(kept), left_out)
