"""What one server understands of Chat Completions, learnt from its own refusals and remembered for the run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from qllava.datagen.answer_format import AnswerFormat

LimitField = Literal["max_completion_tokens", "max_tokens"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to put a request: answer form, name of the token limit, whether a temperature is taken."""

    form: AnswerFormat
    limit_field: LimitField
    temperature: bool = True
    renamed: bool = False


def first_dialect(form: AnswerFormat, *, official: bool) -> Dialect:
    """The one to begin with; `max_completion_tokens` is OpenAI's newer name, which older servers ignore silently."""
    return Dialect(form, "max_completion_tokens" if official else "max_tokens")


def adapted(sent: Dialect, complaint: str) -> tuple[Dialect, str] | None:
    """The dialect after a 400 or 422 and what changed, in words; None where the refusal is about something else.

    Args:
        sent: the dialect of the request that was refused.
        complaint: the server's whole answer, as text.
    """
    said = complaint.lower()
    if sent.form == "json" and ("response_format" in said or "json_schema" in said):
        return replace(sent, form="text"), "the server refuses response_format; asking for labelled text instead"
    if sent.limit_field in said and not sent.renamed:
        other: LimitField = "max_tokens" if sent.limit_field == "max_completion_tokens" else "max_completion_tokens"
        return replace(sent, limit_field=other, renamed=True), f"the server refuses {sent.limit_field}; using {other}"
    if sent.temperature and "temperature" in said:
        return replace(sent, temperature=False), "the model refuses a temperature; using its own"
    return None


def merged(current: Dialect, learnt: Dialect) -> Dialect:
    """Both lessons together; requests in flight at the same time may have taught different ones."""
    return Dialect(
        form="text" if "text" in (current.form, learnt.form) else "json",
        limit_field=learnt.limit_field if learnt.renamed else current.limit_field,
        temperature=current.temperature and learnt.temperature,
        renamed=current.renamed or learnt.renamed,
    )
