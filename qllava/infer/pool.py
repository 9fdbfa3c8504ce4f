"""Answers to requests that come and go: all that are under way advance together, one token a step.

A request joins those under way at the next step and leaves when its answer ends, so a short question never waits for a
long answer, and a forward over many rows costs little more than one over a single row.

Shapes: B rows, T columns of the shared cache, K vocabulary rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.nn.functional import pad
from transformers import DynamicCache

from qllava.errors import DataError
from qllava.infer.answer_text import AnswerText
from qllava.infer.batches import cache_bytes_per_token
from qllava.infer.engine import CACHE_BYTES, Engine, Picture, Rows
from qllava.infer.sampling import Sampling, choose
from qllava.types import Message

Ending = Literal["stop", "length"]
# What one token of a vocabulary may spell, in characters; a run of spaces is the longest there is in practice.
_CHARACTERS_PER_TOKEN = 128
# Prompt tokens read in one step: everybody else waits for them.
_READ_AT_ONCE = 8192


@dataclass(frozen=True)
class Asked:
    """A request that was read and fits the model.

    Attributes:
        ids: (T,) tokens of the prompt, images expanded.
        pictures: in the order of their tokens.
        sampling: settings of this request alone.
        stops: texts that end the answer, besides the template's own.
        room: tokens the answer may take.
    """

    ids: list[int]
    pictures: tuple[Picture, ...]
    sampling: Sampling
    stops: tuple[str, ...]
    room: int


@dataclass(frozen=True)
class Progress:
    """What a step brought one request: text that became certain, and how the answer ended, if it did.

    `tokens`: generated so far, the one that ended the answer among them.
    """

    key: int
    text: str
    tokens: int
    ending: Ending | None


@dataclass
class _Underway:
    key: int
    asked: Asked
    text: AnswerText
    generator: torch.Generator
    tokens: int = field(default=0)


class AnswerPool:
    """Answers under way. Not for several threads at once, but for `read`, which any thread may call."""

    def __init__(self, engine: Engine, *, max_rows: int = 16, cache_bytes: int = CACHE_BYTES) -> None:
        """Answer with `engine`, at most `max_rows` at a time, in `cache_bytes` of keys and values (one may exceed)."""
        self._engine = engine
        self._max_rows = max_rows
        self._max_cells = cache_bytes // cache_bytes_per_token(engine.text_config)
        self._rows: Rows | None = None
        self._underway: list[_Underway] = []

    def __len__(self) -> int:
        return len(self._underway)

    def read(
        self, messages: Sequence[Message], pictures: Sequence[Picture], sampling: Sampling, stops: Sequence[str] = ()
    ) -> Asked:
        """Tokenise a request.

        Raises:
            DataError: as `Engine.stream`.
        """
        characters = sum(len(part.get("text", "")) for message in messages for part in message["content"])
        if characters > _CHARACTERS_PER_TOKEN * self._engine.context:  # not worth minutes of tokenising
            raise DataError(
                f"the conversation has {characters} characters and the model holds {self._engine.context} tokens; "
                "ask something shorter"
            )
        ids = self._engine.encode((messages, pictures))
        room = min(sampling.max_new_tokens, self._engine.context - len(ids))
        return Asked(ids, tuple(pictures), sampling, tuple(stops), room)

    def fitting(self, waiting: Iterable[Asked]) -> int:
        """How many of the first of `waiting` can join now."""
        width = 0 if self._rows is None else self._rows.mask.shape[1]
        left = max((one.asked.room - one.tokens for one in self._underway), default=0)
        read = count = 0
        for asked in waiting:
            width, left, read = max(width, len(asked.ids)), max(left, asked.room), read + len(asked.ids)
            rows = len(self) + count + 1
            if rows > self._max_rows or (rows > 1 and rows * (width + left) > self._max_cells):
                break
            if count and read > _READ_AT_ONCE:
                break
            count += 1
        return count

    def add(self, requests: Sequence[tuple[int, Asked]]) -> None:
        """Read the prompts of (key, request) pairs; their answers go on with the others' from the next step."""
        prompts = [asked for _, asked in requests]
        rows = self._engine.start([asked.ids for asked in prompts], [asked.pictures for asked in prompts])
        self._rows = rows if self._rows is None else _join(self._rows, rows)
        self._underway += [
            _Underway(
                key,
                asked,
                AnswerText(self._engine.tokenizer, (*self._engine.stop_texts, *asked.stops)),
                asked.sampling.generator(self._engine.device),
            )
            for key, asked in requests
        ]

    def step(self) -> list[Progress]:
        """One more token for every answer under way, in the order they joined; those that ended have left."""
        if self._rows is None:
            return []
        tokens = self._choose(self._rows.logits)
        progress = [self._push(one, token) for one, token in zip(self._underway, tokens, strict=True)]
        kept = [place for place, made in enumerate(progress) if made.ending is None]
        self._keep(kept)
        if self._rows is not None:
            chosen = torch.tensor([tokens[place] for place in kept], device=self._engine.device)
            self._rows = self._engine.advance(self._rows, chosen)
        return progress

    def drop(self, keys: Iterable[int]) -> None:
        """Forget these requests; keys that are not under way are none of its business."""
        gone = set(keys)
        kept = [place for place, one in enumerate(self._underway) if one.key not in gone]
        if len(kept) < len(self):
            self._keep(kept)

    def clear(self) -> None:
        """Forget all of them."""
        self._keep([])

    def _push(self, one: _Underway, token: int) -> Progress:
        one.tokens += 1
        ends = token in self._engine.stop_ids
        text = "" if ends else one.text.push(token)
        ending: Ending | None = (
            "stop" if ends or one.text.stopped else "length" if one.tokens == one.asked.room else None
        )
        if ending is not None:
            text += one.text.finish()
        return Progress(one.key, text, one.tokens, ending)

    def _choose(self, logits: torch.Tensor) -> list[int]:
        """The next token of each of (B, K) rows; each draws from a source of its own, whoever is in the batch."""
        allowed = self._engine.allowed(logits)
        likeliest = allowed.argmax(-1).tolist()
        return [
            likeliest[row]
            if one.asked.sampling.temperature == 0.0
            else int(choose(allowed[row : row + 1], one.asked.sampling, one.generator))
            for row, one in enumerate(self._underway)
        ]

    def _keep(self, kept: list[int]) -> None:
        if self._rows is None or len(kept) == len(self._underway):
            return
        self._underway = [self._underway[place] for place in kept]
        self._rows = _trim(self._engine.keep(self._rows, kept)) if kept else None


def _join(first: Rows, second: Rows) -> Rows:
    """Two sets of rows as one; the shorter cache is padded on the left, where its mask says that nothing is."""
    width = max(first.mask.shape[1], second.mask.shape[1])
    cache = DynamicCache()
    for index, (a, b) in enumerate(zip(_layers(first.cache), _layers(second.cache), strict=True)):
        keys, values = (torch.cat([_widen(x, width), _widen(y, width)]) for x, y in zip(a, b, strict=True))
        cache.update(keys, values, index)
    masks = [pad(rows.mask, (width - rows.mask.shape[1], 0)) for rows in (first, second)]
    return Rows(
        [*range(len(first.prompt) + len(second.prompt))],
        cache,
        torch.cat(masks),
        torch.cat([first.position, second.position]),
        torch.cat([first.logits, second.logits]),
    )


def _widen(tensor: torch.Tensor, width: int) -> torch.Tensor:
    """(B, heads, T, size) -> (B, heads, width, size)."""
    return pad(tensor, (0, 0, width - tensor.shape[2], 0))


def _trim(rows: Rows) -> Rows:
    """Without the columns in which no row has anything any more; they need not stand on the left (shared prefixes)."""
    used = rows.mask.any(0).nonzero()[:, 0]
    if len(used) == rows.mask.shape[1]:
        return rows
    cache = DynamicCache()
    for index, (keys, values) in enumerate(_layers(rows.cache)):
        cache.update(keys[:, :, used], values[:, :, used], index)
    return Rows(rows.prompt, cache, rows.mask[:, used], rows.position, rows.logits)


def _layers(cache: DynamicCache) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values, (B, heads, T, size) each, of every layer."""
    layers: Any = cache.layers  # some kinds of layer that this cache never holds have neither
    return [(layer.keys, layer.values) for layer in layers]
