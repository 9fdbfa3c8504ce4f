"""Two scores from what a judge wrote; what cannot be read is a failure with a reason, never a score."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Failure = Literal["not answered", "empty", "no two scores", "out of range"]
FAILURES: tuple[Failure, ...] = ("not answered", "empty", "no two scores", "out of range")
LOWEST, HIGHEST = 1.0, 10.0

_NUMBER = r"(-?\d+(?:\.\d+)?)(?:\s*/\s*10)?"
_LABEL = re.compile(r"\b(?:assistant|answer|response|model)\s*#?\s*[12]\b|\bscores?\b|\band\b", re.IGNORECASE)
_PAIR = re.compile(rf"{_NUMBER}[\s,;|&]+{_NUMBER}")
_MARKUP = re.compile(r"[*_`\[\](){}:=#]|\.(?!\d)")


class Verdict(NamedTuple):
    """Scores of the first and the second answer, 1-10; or the reason why there are none."""

    first: float
    second: float
    failure: Failure | None = None


def failed(reason: Failure) -> Verdict:
    """A verdict that is none."""
    return Verdict(float("nan"), float("nan"), reason)


def parse_verdict(text: str) -> Verdict:
    """Read the two scores of the first line that is not blank, as LLaVA's `parse_score` does.

    `8 7`, `8, 7`, `8/10 7/10`, `**8 7**` and `Assistant 1: 8, Assistant 2: 7` are read; a line with any other word or a
    third number is not, and neither is a score that stands further down.
    """
    lines = text.strip().splitlines()
    if not lines:
        return failed("empty")
    said = _MARKUP.sub(" ", _LABEL.sub(" ", lines[0])).strip(" \t,;")
    pair = _PAIR.fullmatch(said)
    if pair is None:
        return failed("no two scores")
    first, second = float(pair[1]), float(pair[2])
    if not all(LOWEST <= score <= HIGHEST for score in (first, second)):
        return failed("out of range")
    return Verdict(first, second)
