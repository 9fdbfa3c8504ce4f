"""What a teacher is asked about one picture: context, worked examples, sampling, and the key of it all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qllava.datagen.answer_format import AnswerFormat, instruction, render, response_format
from qllava.datagen.lessons import Kind
from qllava.datagen.prompts.load import Prompt
from qllava.datagen.sources import Scene
from qllava.datagen.teachers.dialect import Dialect
from qllava.errors import DataError
from qllava.files import sha256

Context = Literal["captions+boxes", "captions"]
CONTEXTS: tuple[Context, ...] = ("captions+boxes", "captions")

_SEEING = (
    "You are given the picture itself as well. What you see in it counts as much as the notes; where the two "
    "disagree, leave the point out."
)
_BLIND = "There are no notes about this picture."
TOKENS_A_MESSAGE = 4
TOKEN_CHARACTERS = 4
"""Characters a token holds in English text, on the average; an estimate, never a bill."""
OUTPUT_ESTIMATE: Mapping[Kind, int] = {"conversation": 320, "detail": 180, "reasoning": 200}
"""Tokens an answer has, as the package's own worked examples suggest."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the model is to write: `max_tokens` an answer, thoughts included."""

    temperature: float = 0.7
    max_tokens: int = 1024


@dataclass(frozen=True, slots=True)
class Request:
    """One sample that is wanted; `key` (hex) names everything that shapes the answer.

    `context` is what the teacher is told, `seen` the scene's captions and boxes (see `Scene.record`).
    """

    key: str
    picture: str
    image: str
    kind: Kind
    context: str
    seen: Mapping[str, Any]
    file: Path | None


class RequestBuilder:
    """Requests about scenes, and their Chat Completions parameters in a server's dialect."""

    def __init__(
        self,
        prompts: Mapping[Kind, Prompt],
        *,
        model: str,
        sampling: Sampling,
        form: AnswerFormat,
        context: Context,
        see: bool,
        image_root: Path,
        teacher: str = "openai",
    ) -> None:
        self.model = model
        self._teacher = teacher
        self.sampling = sampling
        self.see = see
        self._boxes = context == "captions+boxes"
        self._image_root = image_root
        forms: tuple[AnswerFormat, ...] = ("json", "text")
        self._openings = {(kind, f): self._opening(prompt, f) for kind, prompt in prompts.items() for f in forms}
        self._hashes = {kind: self._hash(kind, form) for kind in prompts}
        self._lengths = {
            at: sum(len(message["content"]) for message in opening) for at, opening in self._openings.items()
        }
        self._form = form
        self._hashed: tuple[Path, str] | None = None

    @property
    def prompt_hashes(self) -> dict[Kind, str]:
        """sha256 (hex) of what is the same in all requests of a kind: model, opening, sampling, schema."""
        return {kind: digest.hexdigest() for kind, digest in self._hashes.items()}

    def request(self, scene: Scene, kind: Kind) -> Request | None:
        """What to ask about one scene; None where nothing is known about it and the teacher does not see.

        Raises:
            DataError: the teacher sees, and the picture's file cannot be read.
        """
        context = describe(scene, boxes=self._boxes)
        if not context and not self.see:
            return None
        file = self._image_root / scene.image if self.see else None
        digest = self._hashes[kind].copy()
        digest.update(context.encode())
        if file is not None:
            digest.update(f"\0{self._file_hash(file)}".encode())
        return Request(digest.hexdigest()[:32], scene.id, scene.image, kind, context, scene.record(), file)

    def _file_hash(self, file: Path) -> str:
        """sha256 of a picture's file; kept for the other kinds of the same picture, which come next."""
        if self._hashed is None or self._hashed[0] != file:
            try:
                self._hashed = (file, sha256(file))
            except OSError as error:
                raise DataError(f"image {file} cannot be read ({error.strerror}); replace it or leave it out") from None
        return self._hashed[1]

    def parameters(self, request: Request, dialect: Dialect, picture: str | None) -> dict[str, Any]:
        """The body of one Chat Completions request; `picture` is its data URL."""
        text: Any = request.context or _BLIND
        if picture is not None:
            text = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": picture}}]
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [*self._openings[request.kind, dialect.form], {"role": "user", "content": text}],
            dialect.limit_field: self.sampling.max_tokens,
        }
        if dialect.temperature:
            body["temperature"] = self.sampling.temperature
        if dialect.form == "json":
            body["response_format"] = response_format(request.kind)
        return body

    def record(self, request: Request, response: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
        """One line of `responses.jsonl`: who was asked what about which picture, and the answer as it came."""
        return {
            "key": request.key,
            "id": request.picture,
            "image": request.image,
            "kind": request.kind,
            "teacher": self._teacher,
            "model": self.model,
            "prompt": self.prompt_hashes[request.kind],
            "form": dialect.form,
            "context": request.context,
            **request.seen,
            "response": response,
        }

    def estimated_tokens(self, request: Request) -> tuple[int, int]:
        """(prompt, answer) in tokens, without the picture; an estimate from characters."""
        at = (request.kind, self._form)
        characters = self._lengths[at] + len(request.context)
        messages = len(self._openings[at]) + 1
        answer = min(OUTPUT_ESTIMATE[request.kind], self.sampling.max_tokens)
        return round(characters / TOKEN_CHARACTERS) + TOKENS_A_MESSAGE * messages, answer

    def most_tokens(self, request: Request) -> tuple[int, int]:
        """(prompt, answer) in tokens, at the most, without the picture: no token is shorter than a byte."""
        most = max(self._bytes(request.kind, "json"), self._bytes(request.kind, "text"))
        return most + len(request.context.encode()), self.sampling.max_tokens

    def _bytes(self, kind: Kind, form: AnswerFormat) -> int:
        # Four bytes a character bound what the few characters beyond ASCII take.
        opening = self._openings[kind, form]
        schema = len(json.dumps(response_format(kind))) if form == "json" else 0
        length = self._lengths[kind, form]
        ascii_only = all(message["content"].isascii() for message in opening)
        return length * (1 if ascii_only else 4) + schema + 8 * (len(opening) + 1)

    def _opening(self, prompt: Prompt, form: AnswerFormat) -> list[dict[str, str]]:
        parts = [prompt.system, *([_SEEING] if self.see else []), instruction(prompt.kind, form)]
        messages = [{"role": "system", "content": "\n\n".join(parts)}]
        for example in prompt.examples:
            boxes = example.boxes if self._boxes else ()
            messages.append({"role": "user", "content": _notes(example.captions, boxes)})
            messages.append({"role": "assistant", "content": render(example.turns, prompt.kind, form)})
        return messages

    def _hash(self, kind: Kind, form: AnswerFormat) -> hashlib._Hash:
        content = {
            "model": self.model,
            "messages": self._openings[kind, form],
            "temperature": self.sampling.temperature,
            "max_tokens": self.sampling.max_tokens,
            "schema": response_format(kind) if form == "json" else None,
        }
        return hashlib.sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode())


def describe(scene: Scene, *, boxes: bool) -> str:
    """A scene as the teacher reads it: captions one a line, an empty line, `category: [x1, y1, x2, y2]` lines.

    Section 3 of the paper; corners are shares of width and height with three decimals. Empty where nothing is known.
    """
    lines = []
    for instance in scene.instances if boxes else ():
        box = instance.box
        crowd = " (several)" if instance.crowd else ""
        lines.append(f"{instance.category}{crowd}: [{box.x1:.3f}, {box.y1:.3f}, {box.x2:.3f}, {box.y2:.3f}]")
    return _notes(scene.captions, lines)


def _notes(captions: tuple[str, ...], boxes: list[str] | tuple[str, ...]) -> str:
    parts = ("\n".join(captions), "\n".join(boxes))
    # A lone surrogate in a caption (half an emoji) can be sent to nobody.
    return "\n\n".join(part for part in parts if part).encode("utf-8", "replace").decode()
