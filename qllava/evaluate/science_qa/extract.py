"""Which choice an answer names; one that names none, or several, is a failure, and failures are counted by reason."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from qllava.evaluate.science_qa.problems import LETTERS

Failure = Literal["unanswered", "no letter", "several letters", "no such choice"]
FAILURES: tuple[Failure, ...] = ("unanswered", "no letter", "several letters", "no such choice")

_L = f"[{LETTERS}]"
# "The answer is B.", "answer is (B)", "ANSWER: B."; but not "the answer is A tree", where A is an article.
_STATED = re.compile(rf"(?i:\banswer(?:\s+is|\s*:))(?:\s+option)?:?\s*\(?(?:([{LETTERS[1:]}])\b|(A)\b(?!\s+[a-z]))")
# "B", "(B)", "B.", "B) because", "B. the dog", "B: the dog"
_OPENING = re.compile(rf"\(?({_L})\)?\s*$|\(({_L})\)|({_L})[.):](?:\s|$)")


class Chosen(NamedTuple):
    """Index of the `choice`, or None and why."""

    choice: int | None
    failure: Failure | None = None


def extract_choice(answer: str | None, choices: int) -> Chosen:
    """The choice that an answer names.

    Statements ("The answer is B.", "ANSWER: B.") count before a letter that opens the answer. Statements of different
    letters are a failure, as in ScienceQA's own evaluation, which takes an answer only when it is stated once.

    Args:
        answer: as the model wrote it; None for a problem that was not answered.
        choices: how many there are.
    """
    if answer is None:
        return Chosen(None, "unanswered")
    said = answer.strip()
    letters = {first or second for first, second in _STATED.findall(said)}
    if not letters and (match := _OPENING.match(said)):
        letters = {next(group for group in match.groups() if group)}
    if not letters:
        return Chosen(None, "no letter")
    if len(letters) > 1:
        return Chosen(None, "several letters")
    index = LETTERS.index(letters.pop())
    return Chosen(index) if index < choices else Chosen(None, "no such choice")
