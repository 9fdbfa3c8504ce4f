"""Shares of a data set for machines that work on it together: by the hash of the id, whatever else is in the set."""

from __future__ import annotations

import hashlib
import re

from qllava.errors import UsageError

_FORM = re.compile(r"([1-9]\d*)/([1-9]\d*)")


def parse(text: str) -> tuple[int, int]:
    """`2/4` -> (2, 4): the second of four.

    Raises:
        UsageError: not of this form, or i is more than n.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None or int(match[1]) > int(match[2]):
        raise UsageError(f"--shard {text!r} is no share; write i/n with i from 1 to n, for example 2/4")
    return int(match[1]), int(match[2])


def in_shard(identity: str, index: int, of: int) -> bool:
    """Whether an id is in share `index` (from 1) of `of`; every id is in exactly one."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8]) % of == index - 1
