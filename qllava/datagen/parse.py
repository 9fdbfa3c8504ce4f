"""From what a language model wrote to questions and answers: `Question:` / `===` / `Answer:` text, or JSON.

Forgiving about spacing, markdown, numbers after the labels and words before the first one; never about roles: a
question must be followed by its answer.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from qllava.datagen.lessons import Kind, Rejection, Turn
from qllava.datagen.wording_checks import CUT_OFF, EMPTY, LEFT_OVER, SWAPPED

_DECORATION = r"[ \t>#*_`-]*"
_LABEL = re.compile(
    rf"^{_DECORATION}(?:\d+[.)]{_DECORATION})?(?P<role>question|answer|q|a)[ \t]*(?:#?\d+)?{_DECORATION}"
    rf"[:\N{{FULLWIDTH COLON}}]{_DECORATION}",
    re.IGNORECASE | re.MULTILINE,
)
_SEPARATOR = re.compile(r"^[ \t*]*={3,}[ \t*]*$", re.MULTILINE)
_FENCE = re.compile(r"^\s*```[a-z]*[ \t]*\n(?P<inside>.*?)\n?```\s*$", re.DOTALL | re.IGNORECASE)
_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_PLACEHOLDER = "<image>"
HOLDS_IMAGE = "holds <image>"


@dataclass(frozen=True, slots=True)
class Parsed:
    """The turns of one answer, and what of it was left out.

    A detail answer has no question of its own: its one turn's question is empty.
    """

    turns: tuple[Turn, ...]
    rejections: tuple[Rejection, ...]


def parse_answer(text: str, kind: Kind, *, cut_off: bool) -> Parsed:
    """Read one answer of a language model.

    Args:
        text: what it wrote, thoughts in `<think>` included.
        kind: what it was asked for.
        cut_off: whether it was stopped by the token limit (`finish_reason: length`); then the last turn is left out.

    Returns:
        Turns, or why there are none: reasons of `wording_checks`, and `HOLDS_IMAGE`. A conversation keeps the turns
        before its first bad one.
    """
    body = _THOUGHT.sub("", text.replace("\r\n", "\n")).strip()
    if fence := _FENCE.match(body):
        body = fence["inside"].strip()
    if not body:
        return _nothing(CUT_OFF, "no text before the token limit") if cut_off else _nothing(EMPTY, "no text")
    parsed = _from_json(body, kind) if body[0] in "{[" else _from_text(body, kind, cut_off=cut_off)
    if cut_off and (body[0] in "{[" or kind != "conversation"):
        return _nothing(CUT_OFF, "stopped by the token limit")
    return _checked(parsed, kind)


def _from_json(body: str, kind: Kind) -> Parsed:
    try:
        content = json.loads(body)
    except ValueError as error:
        return _nothing(LEFT_OVER, f"not JSON ({error})")
    if kind == "conversation":
        entries = content.get("turns") if isinstance(content, dict) else content
        if not isinstance(entries, list) or not entries:
            return _nothing(LEFT_OVER, "JSON without a list `turns`")
    else:
        entries = [content]
    turns: list[Turn] = []
    for entry in entries:
        question, answer = (entry.get("question"), entry.get("answer")) if isinstance(entry, dict) else (None, None)
        if kind == "detail":
            question = ""
        if not isinstance(question, str) or not isinstance(answer, str):
            return _nothing(LEFT_OVER, f"JSON {'turn' if kind == 'conversation' else 'answer'} without its texts")
        turns.append(Turn(_clean(question), _clean(answer)))
    return Parsed(tuple(turns), ())


def _from_text(body: str, kind: Kind, *, cut_off: bool) -> Parsed:
    plain = _SEPARATOR.sub("", body)
    labels = list(_LABEL.finditer(plain))
    if kind == "detail":
        if len(labels) > 1 or (labels and labels[0]["role"][0].lower() == "q"):
            return _nothing(LEFT_OVER, "questions where one description was asked for")
        return Parsed((Turn("", _clean(plain[labels[0].end() :] if labels else plain)),), ())
    if not labels:
        return _nothing(LEFT_OVER, "no `Question:`")
    pieces = [
        (label["role"][0].lower(), _clean(plain[label.end() : after.start() if after else len(plain)]))
        for label, after in zip(labels, [*labels[1:], None], strict=True)
    ]
    rejections: list[Rejection] = []
    if cut_off:
        last = pieces.pop()
        if last[0] == "a" and pieces:
            pieces.pop()
        rejections.append(Rejection(CUT_OFF, "the last turn was stopped by the token limit"))
    turns: list[Turn] = []
    for at in range(0, len(pieces), 2):
        pair = pieces[at : at + 2]
        roles = "".join(role for role, _ in pair)
        if roles != "qa":
            rejections.append(_bad_pair(roles))
            break
        turns.append(Turn(pair[0][1], pair[1][1]))
    return Parsed(tuple(turns), tuple(rejections))


def _bad_pair(roles: str) -> Rejection:
    if roles == "q":
        return Rejection(LEFT_OVER, "a question without its answer")
    if roles == "qq":
        return Rejection(LEFT_OVER, "two questions in a row")
    return Rejection(SWAPPED, "an answer where a question belongs")


def _checked(parsed: Parsed, kind: Kind) -> Parsed:
    """Only turns with text, without the picture's placeholder, and as many as the kind has."""
    kept: list[Turn] = []
    rejections = list(parsed.rejections)
    for turn in parsed.turns:
        if not turn.answer or (kind != "detail" and not turn.question):
            rejections.append(Rejection(EMPTY, f"an empty {'answer' if turn.question else 'question'}"))
            break
        if _PLACEHOLDER in f"{turn.question} {turn.answer}".lower():
            rejections.append(Rejection(HOLDS_IMAGE, "the placeholder would become a second picture"))
            break
        kept.append(turn)
    if kind == "reasoning" and len(parsed.turns) > 1:
        return Parsed((), (Rejection(LEFT_OVER, f"{len(parsed.turns)} questions where one was asked for"),))
    if kind != "conversation" and rejections:
        return Parsed((), tuple(rejections))
    if not kept and not rejections:
        rejections.append(Rejection(LEFT_OVER, "no question with its answer"))
    return Parsed(tuple(kept), tuple(rejections))


def _nothing(reason: str, detail: str) -> Parsed:
    return Parsed((), (Rejection(reason, detail),))


def _clean(text: str) -> str:
    """Without the markdown that a label left behind at the ends; paragraphs stay."""
    lines = [line.rstrip() for line in text.strip().splitlines()]
    joined = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return re.sub(r"\s*(\n[ \t]*[-*_#]{2,})+$", "", joined)
