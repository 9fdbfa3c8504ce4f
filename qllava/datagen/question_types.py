"""What a free question asks about, by its first words; for the counts of the data card, nothing hangs on it."""

from __future__ import annotations

import re

_TYPES = (
    ("count", re.compile(r"\bhow many\b|\bnumber of\b")),
    ("color", re.compile(r"\b(what|which) colou?rs?\b")),
    ("relative position", re.compile(r"\b(left|right) of\b|\bto the (left|right)\b|\b(above|below|behind|next to)\b")),
    ("position", re.compile(r"^where\b|\bwhere (is|are)\b")),
    ("action", re.compile(r"\bdoing\b|\bwhat (is|are) .*\b\w+ing\b")),
    ("reason", re.compile(r"^why\b|^how come\b|^for what reason\b|\bmight\b|\bcould\b|\bwould\b")),
    ("presence", re.compile(r"^(is|are) there\b|^(can|do) you see\b")),
    ("yes or no", re.compile(r"^(is|are|do|does|did|has|have|can|was|were)\b")),
    ("kind", re.compile(r"^(what|which)\b")),
)


def question_type(question: str) -> str:
    """`count`, `color`, `position`, ... or `other`."""
    plain = question.lower().strip()
    return next((name for name, pattern in _TYPES if pattern.search(plain)), "other")
