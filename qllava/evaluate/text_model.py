"""Asking a language model over text alone (a judge, a helper): any OpenAI-compatible endpoint, every reply kept.

The machinery is gen-data's: retries, pauses the server asks for, money, Ctrl-C, and a journal that has each reply on
the disk before anything else is done with it. A reply is found again by what was asked, so a second run asks nothing
that was answered before, be the reply good or not.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from qllava.datagen.asking import Asked, Inquiry, Policy, Stop, View, ask_all
from qllava.datagen.lock import locked
from qllava.datagen.money import Budget, Usage, load_prices, price_of
from qllava.datagen.prompting import TOKEN_CHARACTERS
from qllava.datagen.responses import Journal
from qllava.datagen.teachers.dialect import Dialect, first_dialect
from qllava.datagen.teachers.openai_client import Teacher, find_endpoint, is_configured
from qllava.errors import UsageError

Role = Literal["judge", "helper"]
_HEADER = json.dumps({"journal": "qllava eval replies", "version": 1}).encode() + b"\n"
_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_ANSWER_ESTIMATE = 160


@dataclass(frozen=True, slots=True)
class TextModel:
    """Which model to ask, and how hard to try.

    `flag` is the option that names it; `max_tokens` a reply, thoughts included; `max_cost` USD for all replies of the
    journal, earlier runs included; `max_requests` requests of this run.
    """

    model: str
    base_url: str | None = None
    role: Role = "judge"
    flag: str = "--judge"
    temperature: float = 0.0
    max_tokens: int = 1024
    prices: Path | None = None
    max_cost: float | None = None
    max_requests: int | None = None
    timeout_s: float = 600.0
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True, slots=True)
class TextRequest:
    """One request: `key` (hex) names all that shapes the reply; `about` tells people which question it belongs to."""

    key: str
    about: str
    messages: tuple[Mapping[str, str], ...]
    file: None = None


@dataclass(frozen=True, slots=True)
class Replies:
    """What came back: `texts` by key (empty for a refusal), `failed` reasons by key; every request is in one of them.

    `found` were answered by an earlier run. `cost` USD of this run's replies, None without a known price.
    """

    texts: Mapping[str, str]
    failed: Mapping[str, str]
    asked: Asked
    found: int
    usage: Usage
    cost: float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """Still to be asked: `requests`, tokens estimated from characters, USD (None without a known price).

    `local`: the server is on this machine.
    """

    requests: int
    found: int
    prompt_tokens: int
    cost: float | None
    local: bool
    endpoint: str


def make_request(
    settings: TextModel, about: str, messages: Sequence[Mapping[str, str]], *, copy: int = 0
) -> TextRequest:
    """A request and its key; `copy` tells repeated ones apart."""
    content = {
        "model": settings.model,
        "messages": list(messages),
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
        "copy": copy,
    }
    digest = hashlib.sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode("utf-8", "replace"))
    return TextRequest(digest.hexdigest()[:32], about, tuple(messages))


def estimate(requests: Sequence[TextRequest], settings: TextModel, journal: Path) -> Estimate:
    """What asking would cost; sends and writes nothing.

    Raises:
        UsageError: no endpoint, or settings that cannot work.
    """
    check(settings)
    endpoint = find_endpoint(settings.base_url)
    answered = Journal.peek(journal, _HEADER) if journal.exists() else ()
    missing = [request for request in requests if request.key not in answered]
    characters = sum(len(message["content"]) for request in missing for message in request.messages)
    usage = Usage(round(characters / TOKEN_CHARACTERS), 0, min(_ANSWER_ESTIMATE, settings.max_tokens) * len(missing))
    price = price_of(settings.model, load_prices(settings.prices))
    cost = None if price is None else price.cost(usage)
    found = len(requests) - len(missing)
    return Estimate(len(missing), found, usage.prompt, cost, endpoint.local, endpoint.name)


def ask_texts(
    requests: Sequence[TextRequest],
    settings: TextModel,
    journal: Path,
    *,
    view: View,
    note: Callable[[str], None],
) -> Replies:
    """Ask what the journal lacks and return a reply, or a reason, for every request.

    Args:
        requests: their keys differ.
        settings: of the model.
        journal: the file of replies; made with its folder.
        view: told after each reply and failure.
        note: gets what a person should know, a line at a time.

    Raises:
        UsageError: settings that cannot work, or another process asks for the same journal.
        DataError: the journal is damaged.
        KeyboardInterrupt: the second Ctrl-C; what was answered is kept.
    """
    check(settings)
    endpoint = find_endpoint(settings.base_url)
    builder = _Builder(settings)
    price = price_of(settings.model, load_prices(settings.prices))
    with locked(journal.parent, "eval"), Journal(journal, _HEADER) as kept:
        if kept.recovered:
            note(f"{journal.name}: cut off {kept.recovered:,} bytes that a crash had left unfinished")
        paid = kept.paid.get((settings.role, settings.model), Usage())
        spent = 0.0 if price is None else price.cost(paid)
        budget = Budget(price, max_cost=settings.max_cost, max_requests=settings.max_requests, spent=spent)
        before = sum(request.key in kept for request in requests)

        async def ask() -> Asked:
            stop = Stop()
            dialect = first_dialect("text", official=endpoint.official)
            teacher = Teacher(
                endpoint, dialect, timeout_s=settings.timeout_s, note=note, role=settings.role, flag=settings.flag
            )
            async with teacher:
                with stop.on_interrupt(note):
                    inquiry = Inquiry(builder, teacher, kept, budget, stop, view)
                    return await ask_all(iter(requests), inquiry, settings.policy)

        try:
            asked = asyncio.run(ask())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        texts: dict[str, str] = {}
        failed: dict[str, str] = {}
        for request in requests:
            record = kept.read(request.key)
            if record is not None:
                texts[request.key] = reply_text(record["response"])
            else:
                failed[request.key] = asked.failed.get(request.key, f"not asked: {asked.stopped or 'interrupted'}")
        cost = None if price is None else price.cost(budget.usage)
        return Replies(texts, failed, asked, before, budget.usage, cost)


def check(settings: TextModel) -> None:
    """Refuse what cannot work before anything is sent.

    Raises:
        UsageError: no endpoint and no key, a number out of range, or a cost limit without a known price.
    """
    if not is_configured(settings.base_url):
        raise UsageError(
            f"no server for {settings.flag} {settings.model}: set OPENAI_API_KEY, or name a server with --base-url URL"
        )
    if settings.max_cost is not None:
        if not 0.0 < settings.max_cost < float("inf"):
            raise UsageError(f"--max-cost {settings.max_cost:g} buys nothing; give USD above 0")
        if price_of(settings.model, load_prices(settings.prices)) is None:
            raise UsageError(
                f"--max-cost {settings.max_cost:g} cannot be kept: {settings.model} has no known price; "
                "give one with --prices FILE, or use --max-requests"
            )
    if settings.policy.concurrency < 1:
        raise UsageError(f"--concurrency {settings.policy.concurrency} cannot work; give 1 or more")
    if settings.max_requests is not None and settings.max_requests < 1:
        raise UsageError(f"--max-requests {settings.max_requests} cannot work; give 1 or more")


def reply_text(response: Mapping[str, Any]) -> str:
    """What the model wrote, without its thoughts; empty for a refusal."""
    message = response["choices"][0]["message"]
    content = message.get("content")
    if message.get("refusal") or not isinstance(content, str):
        return ""
    return _THOUGHT.sub("", content.replace("\r\n", "\n")).strip()


class _Builder:
    """Requests of one model in a server's dialect."""

    def __init__(self, settings: TextModel) -> None:
        self._settings = settings

    def parameters(self, request: TextRequest, dialect: Dialect, picture: str | None) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._settings.model,
            "messages": [dict(message) for message in request.messages],
            dialect.limit_field: self._settings.max_tokens,
        }
        if dialect.temperature:
            body["temperature"] = self._settings.temperature
        return body

    def most_tokens(self, request: TextRequest) -> tuple[int, int]:
        # No token is shorter than a byte; a message has a few of its own.
        bytes_ = sum(len(message["content"].encode("utf-8", "replace")) + 16 for message in request.messages)
        return bytes_, self._settings.max_tokens

    def record(self, request: TextRequest, response: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
        return {
            "key": request.key,
            "about": request.about,
            "teacher": self._settings.role,
            "model": self._settings.model,
            "temperature": self._settings.temperature if dialect.temperature else None,
            "messages": [dict(message) for message in request.messages],
            "response": response,
        }
