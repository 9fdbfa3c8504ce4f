"""The body of a chat completion: what is understood, what may be sent without effect, what is refused.

Fields and meanings: OpenAI's API reference, "Create chat completion". A field that asks for something this server does
not do is an error unless it holds the value that asks for nothing, which many clients send by default.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from qllava.errors import UsageError
from qllava.infer.sampling import Sampling
from qllava.serve.api_error import ApiError, invalid

MAX_STOPS = 4
MAX_MESSAGES = 1024
MAX_PARTS = 1024
_SEEDS = 2**63
# Values that ask for nothing. None and an absent field ask for nothing anywhere.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}
# Labels for the books of whoever runs a service; they never change an answer.
_LABELS = dict.fromkeys(("metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user"))
_NEUTRAL_IN_MESSAGE: dict[str, tuple[Any, ...]] = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "refusal": (),
    "tool_calls": ([],),
}


class _Object(BaseModel):
    """Types as written: a "1" is no number. Unknown fields are looked at afterwards, and only until the first bad one:
    a list of every error in twenty megabytes of nonsense would fill the memory.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")


class ImageUrl(_Object):
    """Where a picture is; `detail` is OpenAI's price class and has no meaning here."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(_Object):
    """A picture in a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


class TextPart(_Object):
    """A text in a message."""

    type: Literal["text"]
    text: str


_Part = Annotated[ImagePart | TextPart, Field(discriminator="type")]


class ChatMessage(_Object):
    """One turn as clients send it."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[_Part], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None


class StreamOptions(_Object):
    """Settings of a stream; `include_obfuscation` pads OpenAI's packets and has no meaning here."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(_Object):
    """A request for one answer."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-_SEEDS, lt=_SEEDS)] | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def sampling(self, default: Sampling) -> Sampling:
        """The generation settings; what the request leaves open is the server's, but for the seed: that is drawn.

        Raises:
            ApiError: a value out of its range.
        """
        limits = [limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None]
        try:
            return Sampling(
                temperature=default.temperature if self.temperature is None else self.temperature,
                top_p=default.top_p if self.top_p is None else self.top_p,
                max_new_tokens=min(limits, default=default.max_new_tokens),
                seed=secrets.randbelow(_SEEDS) if self.seed is None else self.seed,
            )
        except UsageError as error:
            raise invalid(str(error)) from None


def parse_chat_request(body: bytes) -> ChatRequest:
    """Read the body of a request.

    Raises:
        ApiError: it is no JSON, misses or misuses a field, or asks for what this server does not do.
    """
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise _complaint(error) from None
    except ValueError as error:  # text that is no Unicode comes as one of these
        raise invalid(f"the body is no JSON ({_short(str(error))}); send a JSON object") from None
    _check_extra(request, "", {**_NEUTRAL, **_LABELS})
    if not all(request.stops):
        raise invalid("stop holds an empty text; remove it", "stop", "invalid_value")
    if request.stream_options is not None:
        _check_extra(request.stream_options, "stream_options.", {})
    for index, message in enumerate(request.messages):
        _check_extra(message, f"messages.{index}.", _NEUTRAL_IN_MESSAGE)
        for place, part in enumerate(message.content if isinstance(message.content, list) else ()):
            _check_extra(part, f"messages.{index}.content.{place}.", {})
            if isinstance(part, ImagePart):
                _check_extra(part.image_url, f"messages.{index}.content.{place}.image_url.", {})
    return request


def _check_extra(found: BaseModel, where: str, neutral: Mapping[str, tuple[Any, ...] | None]) -> None:
    for name, value in (found.model_extra or {}).items():
        if name not in neutral or neutral[name] is not None:
            _require_neutral(where, name, value, neutral)


def _require_neutral(where: str, name: str, value: Any, neutral: Mapping[str, tuple[Any, ...] | None]) -> None:
    path = where + name
    if name not in neutral:
        raise invalid(f"unknown field {_short(path)!r}; remove it", _short(path), "unknown_parameter")
    # By repr, so that a true is no 1 and a 0.0 may be a 0.
    nothing = neutral[name] or ()
    if value is not None and repr(value) not in {*map(repr, nothing), *(repr(0.0) for item in nothing if item == 0)}:
        raise invalid(f"{path}={_short(repr(value))} is not supported here; remove it", path, "unsupported_parameter")


def _complaint(error: ValidationError) -> ApiError:
    """The deepest thing that pydantic found (of a union it tries every side), in our words."""

    def depth(found: ErrorDetails) -> tuple[int, bool]:
        return len(found["loc"]), not (isinstance(found["input"], list) and found["type"] == "string_type")

    first = max(error.errors(include_url=False, include_context=False), key=depth)
    path = _path(first["loc"])
    kind = first["type"]
    if kind == "json_invalid":
        return invalid(f"the body is no JSON ({_short(first['msg'])}); send a JSON object")
    if kind == "missing":
        return invalid(f"{path} is missing; add it", path, "missing_required_parameter")
    value = _short(repr(first["input"]))
    return invalid(f"{path or 'the body'}={value}: {_short(first['msg'])}", path or None, "invalid_value")


def _path(location: tuple[int | str, ...]) -> str:
    """Where an error is, without the names that pydantic gives to the sides of a union."""
    fields = [str(step) for step in location if isinstance(step, int) or (step.isidentifier() and step != "str")]
    return _short(".".join(field for field, before in zip(fields, ["", *fields], strict=False) if field != before))


def _short(text: str, limit: int = 120) -> str:
    """At most `limit` printable characters of what somebody sent."""
    shown = "".join(character if character.isprintable() else " " for character in text[: limit + 1])
    return shown if len(text) <= limit else f"{shown[: limit - 3]}..."
