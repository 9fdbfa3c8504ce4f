"""The two forms an answer can be asked for in: strict JSON where the server knows schemas, labelled text elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from qllava.datagen.lessons import Kind, Turn

AnswerFormat = Literal["json", "text"]

_TEXT = {
    "conversation": "Write every question and answer in this form, with nothing before, between or after:\n"
    "Question:\n<the question>\n===\nAnswer:\n<the answer>\n===\nQuestion:\n...",
    "detail": "Write the description alone, with nothing before or after.",
    "reasoning": "Write them in this form, with nothing before or after:\n"
    "Question:\n<the question>\n===\nAnswer:\n<the answer>",
}
_JSON = {
    "conversation": 'Reply with JSON: {"turns": [{"question": ..., "answer": ...}, ...]}.',
    "detail": 'Reply with JSON: {"answer": <the description>}.',
    "reasoning": 'Reply with JSON: {"question": ..., "answer": ...}.',
}


def instruction(kind: Kind, form: AnswerFormat) -> str:
    """The last paragraph of the system text: how to write the answer down."""
    return (_JSON if form == "json" else _TEXT)[kind]


def render(turns: Sequence[Turn], kind: Kind, form: AnswerFormat) -> str:
    """A worked example's turns as the teacher is to write them."""
    if form == "json":
        content: Any
        if kind == "conversation":
            content = {"turns": [{"question": turn.question, "answer": turn.answer} for turn in turns]}
        elif kind == "detail":
            content = {"answer": turns[0].answer}
        else:
            content = {"question": turns[0].question, "answer": turns[0].answer}
        return json.dumps(content, ensure_ascii=False)
    if kind == "detail":
        return turns[0].answer
    return "\n===\n".join(f"Question:\n{turn.question}\n===\nAnswer:\n{turn.answer}" for turn in turns)


def response_format(kind: Kind) -> dict[str, Any]:
    """The value of Chat Completions' `response_format`: a strict JSON schema."""
    names = ("answer",) if kind == "detail" else ("question", "answer")
    schema = _object({name: {"type": "string"} for name in names})
    if kind == "conversation":
        schema = _object({"turns": {"type": "array", "items": schema}})
    return {"type": "json_schema", "json_schema": {"name": kind, "strict": True, "schema": schema}}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
