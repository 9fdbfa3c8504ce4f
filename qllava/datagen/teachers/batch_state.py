"""Which batches were submitted: `batches.json`, so that a run that was cut off finds them again."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qllava.errors import DataError
from qllava.files import write_json

STATE = "batches.json"
FOLDER = "batches"
NONCE = "qllava_batch"
"""The key in a batch's metadata that names our file, to find a batch whose answer to `create` was lost."""


@dataclass(slots=True)
class Batch:
    """One file of requests: its nonce and, once submitted, the provider's id; `form` etc. are the dialect it is in."""

    nonce: str
    form: str
    limit_field: str
    temperature: bool
    renamed: bool
    requests: int
    bound_usd: float
    file_id: str | None = None
    batch_id: str | None = None

    def file(self, out: Path) -> Path:
        """The requests, one a line."""
        return out / FOLDER / f"{self.nonce}.jsonl"

    def asked(self, out: Path) -> Path:
        """What the journal is to say of each request, one a line: a later run may have other settings."""
        return out / FOLDER / f"{self.nonce}.asked.jsonl"


@dataclass(slots=True)
class State:
    """`open` batches are not collected yet; `attempts` counts how often each unanswered key was in a batch."""

    open: list[Batch] = field(default_factory=list)
    attempts: dict[str, int] = field(default_factory=dict)

    def save(self, out: Path) -> None:
        """Write it atomically; nothing to remember removes the file."""
        path = out / STATE
        if not self.open and not self.attempts:
            path.unlink(missing_ok=True)
            return
        write_json(path, {"version": 1, "open": [asdict(batch) for batch in self.open], "attempts": self.attempts})


def new_nonce() -> str:
    """A name that no other batch has."""
    return uuid.uuid4().hex[:20]


def load_state(out: Path) -> State:
    """The state of a data folder; empty where there is none.

    Raises:
        DataError: the file is not ours.
    """
    path = out / STATE
    if not path.exists():
        return State()
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return State([Batch(**batch) for batch in content["open"]], dict(content["attempts"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); move it away, and see in your account what is open"
        ) from None
